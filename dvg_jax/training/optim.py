"""Define the optimiser of a stage."""

from dataclasses import dataclass, fields

import optax


@dataclass(frozen=True)
class Recipe:
    """Select the fields of a section ``train`` that a compiled step depends on; that section has their defaults.

    Two stages of equal recipe and task share one compiled step.
    """

    beta1: float
    beta2: float
    clip_norm: float
    weight_decay: float
    ema_decay: float
    ema_every: int
    ema_start: int

    def optimizer(self, groups: tuple[str, ...]) -> optax.GradientTransformation:
        """Return Adam's direction after clipping, to be scaled by the learning rate.

        Each group of the parameters is clipped by its own norm. Weight decay is PyTorch's Adam's: it is added to the
        gradient, before the moments are taken.
        """
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        decay = [optax.add_decayed_weights(self.weight_decay)] if self.weight_decay else []
        adam = optax.chain(clip, *decay, optax.scale_by_adam(self.beta1, self.beta2))
        return optax.partition(dict.fromkeys(groups, adam), {group: group for group in groups})


@dataclass(frozen=True)
class Training(Recipe):
    """Hold the fields of a section ``train``, which ``config/defaults.py`` has checked."""

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    decay_steps: int
    end_rate: float
    cache: bool

    def rate(self) -> optax.Schedule:
        """Return the learning rate as a function of the step."""
        peak, low = self.learning_rate, self.learning_rate * self.end_rate
        if self.schedule == "constant":
            after = optax.constant_schedule(peak)
        elif self.schedule == "linear":
            falling = self.decay_steps or self.steps // 2
            after = optax.linear_schedule(peak, low, falling, self.steps - self.warmup_steps - falling)
        elif self.schedule == "staircase":
            tread = self.decay_steps or max(self.steps // 5, 1)
            after = optax.exponential_decay(peak, tread, 0.1, staircase=True)
        else:
            after = optax.cosine_decay_schedule(peak, self.decay_steps or self.steps - self.warmup_steps, self.end_rate)
        if not self.warmup_steps:
            return after
        warmup = optax.linear_schedule(min(low, peak / self.warmup_steps), peak, self.warmup_steps)
        return optax.join_schedules([warmup, after], [self.warmup_steps])

    @property
    def recipe(self) -> Recipe:
        """Return the fields that the compiled step depends on: no data, length or learning rate."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})
