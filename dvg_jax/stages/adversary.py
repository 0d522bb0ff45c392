"""Compare a VQGAN's reconstruction with its input by LPIPS and by two patch critics that are trained with it.

The losses of critics and autoencoder are summed. The sum can be differentiated once: neither loss reaches the other's
parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from dvg_jax.errors import UserError
from dvg_jax.keys import named
from dvg_jax.networks.discriminator import Judged, PatchDiscriminator, feature_distance, hinge_loss, vanilla_loss
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.lpips import load_lpips, lpips
from dvg_jax.shapes import Key, Variables, VariablesByGroup, Volumes
from dvg_jax.stages.base import Metrics

KINDS = {"hinge": hinge_loss, "vanilla": vanilla_loss}


@dataclass(frozen=True)
class Weights:
    """Hold the fields of ``config.<stage>.loss`` and their defaults."""

    reconstruction: float = 4.0
    commitment: float = 0.25
    perceptual: float = 4.0  # LPIPS (VGG) of one random axial slice; 0 leaves it out
    gan: float = 1.0  # 2D and 3D patch discriminators; 0 leaves them out
    feature_matching: float = 4.0
    gan_start: int = 5000  # batches; the released code counts both optimisers' steps up to 10000
    gan_kind: str = "hinge"  # hinge | vanilla
    disc_width: int = 64
    disc_layers: int = 3
    restart_threshold: float = 1.0  # codes used less than this are drawn again from the data

    def __post_init__(self) -> None:
        if self.gan_kind not in KINDS:
            raise UserError(f"gan_kind is {self.gan_kind!r}; allowed: {', '.join(KINDS)}")


@dataclass(frozen=True)
class Adversary:
    """Combine LPIPS and the critics, computed in ``dtype``; each is left out where its weight is 0."""

    weights: Weights
    dtype: DTypeLike = jnp.float32

    @property
    def critics(self) -> dict[str, PatchDiscriminator]:
        """Return the critics by their input: ``slices`` in 2D, ``volume`` in 3D."""
        if not (self.weights.gan or self.weights.feature_matching):
            return {}
        settings: dict[str, Any] = {
            "width": self.weights.disc_width,
            "layers": self.weights.disc_layers,
            "dtype": self.dtype,
        }
        return {"slices": PatchDiscriminator(dims=2, **settings), "volume": PatchDiscriminator(dims=3, **settings)}

    def constants(self) -> Variables:
        """Return the weights of LPIPS, if it is used."""
        return {"lpips": load_lpips("vgg")} if self.weights.perceptual else {}

    def init(self, key: Key, x: Volumes) -> tuple[VariablesByGroup, Variables]:
        """Return the parameter group and the state ``critics`` (running statistics); both empty without critics."""
        if not self.critics:
            return {}, {}
        inputs = {"slices": x[:, 0], "volume": x}
        variables = {
            name: init_variables(critic, named(key, name), inputs[name]) for name, critic in self.critics.items()
        }
        params = {name: v["params"] for name, v in variables.items()}
        return {"critics": params}, {"critics": {name: v["batch_stats"] for name, v in variables.items()}}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, x: Volumes, y: Volumes,
        key: Key, step: Array,
    ) -> tuple[Array, Variables, Metrics]:  # fmt: skip
        """Return the weighted sum, the critics' next state and the metrics of a reconstruction.

        Args:
          params: parameters by group, ``critics`` among them.
          model_state: the state that is not differentiated, ``critics`` in it.
          constants: from :meth:`constants`.
          x: volumes, (B, D, H, W, 1).
          y: their reconstructions.
          key: decides the slices.
          step: of the training; the critics start at ``gan_start``.
        """
        slices = jax.nn.one_hot(jax.random.randint(key, (len(x),), 0, x.shape[1]), x.shape[1])
        # A sum with zeros and a one picks a slice as an index does, whose gradient would be a scatter.
        x2, y2 = (jnp.sum(slices[..., None, None, None] * v, axis=1) for v in (x, y))
        loss, metrics, state = jnp.zeros(()), {}, {}
        if self.weights.perceptual:
            metrics["perceptual"] = jnp.mean(lpips(constants["lpips"], x2, y2, dtype=self.dtype))
            loss += self.weights.perceptual * metrics["perceptual"]
        if self.critics:
            on = jnp.where(step >= self.weights.gan_start, 1.0, 0.0)
            pairs = {"slices": (x2, y2), "volume": (x, y)}
            judged = {
                name: self._judge(name, params["critics"][name], model_state["critics"][name], *pair)
                for name, pair in pairs.items()
            }
            state = {"critics": {name: stats for name, (_, stats) in judged.items()}}
            losses = zip(*(terms for terms, _ in judged.values()), strict=True)
            generator, matching, critic = (jnp.sum(jnp.stack(terms)) for terms in losses)
            metrics |= {"generator": generator, "feature_matching": matching, "critic": critic}
            loss += on * (self.weights.gan * generator + self.weights.feature_matching * matching + critic)
        return loss, state, metrics

    def _judge(
        self, name: str, params: Variables, stats: Variables, real: Judged, fake: Judged
    ) -> tuple[tuple[Array, Array, Array], Variables]:
        """Return generator loss, feature matching, critic loss and running statistics after fake and real pass."""
        critic = self.critics[name]

        def judge(params: Variables, stats: Variables, x: Judged):  # type: ignore[no-untyped-def]
            out, new = critic.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
            return *out, new["batch_stats"]

        (logits, features_fake, stats), (logits_fake, _, _) = twice(judge, params, stats, fake)
        logits_real, features_real, stats = judge(params, stats, real)
        critic_loss = KINDS[self.weights.gan_kind](logits_real, logits_fake)
        return (-jnp.mean(logits), feature_distance(features_real, features_fake), critic_loss), stats


Judge = Callable[[Variables, Variables, Judged], tuple[Array, list[Array], Variables]]
"""(parameters, running statistics, critic's input) -> logits, features, the next statistics."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def twice(judge: Judge, params: Variables, stats: Variables, x: Judged):  # type: ignore[no-untyped-def]
    """Return a critic's output twice, for two losses with different gradients.

    The first, for the generator, passes gradients to ``x`` alone; the second, for the critic, to ``params`` alone. The
    output is computed once. On one device XLA would see that both are equal. Over several it does not, since each has
    its own sums over the devices.

    Args:
      judge: applies the critic.
      params: of the critic.
      stats: its running statistics.
      x: its input, channels last.
    """
    out = judge(params, stats, x)
    return out, out


def _forward(judge: Judge, params: Variables, stats: Variables, x: Judged):  # type: ignore[no-untyped-def]
    out, pull = jax.vjp(lambda params, x: judge(params, stats, x), params, x)
    return (out, out), (pull, stats)


def _backward(judge: Judge, saved, cotangents):  # type: ignore[no-untyped-def]
    (pull, stats), (of_generator, of_critic) = saved, cotangents
    return pull(of_critic)[0], jax.tree.map(jnp.zeros_like, stats), pull(of_generator)[1]


twice.defvjp(_forward, _backward)
