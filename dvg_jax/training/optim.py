"""The optimiser of a stage, as values."""

from dataclasses import dataclass, fields

import optax

from dvg_jax.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """What a compiled training step depends on; two stages of equal recipe and task share one."""

    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.0
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    ema_every: int = 1
    ema_start: int = 0

    def optimizer(self, groups: tuple[str, ...]) -> optax.GradientTransformation:
        """Adam's direction after clipping, to be scaled by the learning rate; each group of the parameters is clipped
        by its own norm. Weight decay is PyTorch's Adam's: added to the gradient, before its moments are taken.
        """
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        decay = [optax.add_decayed_weights(self.weight_decay)] if self.weight_decay else []
        adam = optax.chain(clip, *decay, optax.scale_by_adam(self.beta1, self.beta2))
        return optax.partition(dict.fromkeys(groups, adam), {group: group for group in groups})


@dataclass(frozen=True)
class Training:
    """How a stage is trained; the fields of ``config.<stage>.train``."""

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_steps: int = 0
    end_rate: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.0
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    ema_every: int = 1
    ema_start: int = 0
    cache: bool = False

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate is {self.learning_rate}; allowed: more than 0")
        if not 0 <= self.warmup_steps < self.steps:
            raise UserError(
                f"warmup_steps is {self.warmup_steps}; allowed: 0 or more, fewer than the {self.steps} steps"
            )
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay is {self.ema_decay}; allowed: 0 to less than 1")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay is {self.weight_decay}; allowed: 0 or more")

    def rate(self) -> optax.Schedule:
        """Learning rate as a function of the step."""
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
        """All of this but data, length and learning rate."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})
