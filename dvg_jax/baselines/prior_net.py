"""Define 3DPriorNet, the 3D part of XRaySyn (Peng et al. 2021, arXiv 2012.02407), which the paper scores as a method.

    V_bp --U-Net, convolutions divided by their spectral norm--> bone probability m, bone b, soft tissue t
    CT = m b + (1 - m) t

Several views: their back-projections are summed, Eq. (2) of the DVG paper. The authors' 3D training loop is not public:
``l1`` (of the volume) is the least that a reconstruction needs. ``full`` adds the terms that they name, the bone mask's
cross-entropy and the distance of projections at a random angle.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float
from ml_collections import ConfigDict

from dvg_jax.baselines.base import Baseline, evaluate_network, train_pass
from dvg_jax.baselines.layers import scaled, upsample_linear
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.networks.blocks import BatchNorm, GroupNorm, add_bias, fan_in_uniform
from dvg_jax.networks.convolution import convolve, pad
from dvg_jax.networks.init import init_variables
from dvg_jax.shapes import Features, Key, Resized, Variables, VariablesByGroup, VariablesByStage, Views, Volumes
from dvg_jax.stages.base import Example, Metrics
from dvg_jax.xray import ConeBeamGeometry, forward_project, view_pose

BASE, WIDEST = 96, 8
SLOPE = 0.2
GROUPS = 8
LOSSES = ("l1", "full")
NORMS = ("batch", "group")
BONE_LEVEL, BONE_WINDOW = 1600 / 2500, 800 / 2500
"""Window in which bone's probability rises from 0 to 1, in units of our intensity."""

PROJECTION_WEIGHT = 0.1

Materials = Float[Array, "B D H W 3"]
"""Bone probability, bone, soft tissue, each in [0, 1]."""


class SpectralConv(nn.Module):
    """Apply a 3 x 3 x 3 convolution whose kernel is divided by its largest singular value (Miyato et al. 2018).

    It is zero-padded. The kernel is a matrix with one row per output channel. Each training pass takes one step of the
    power iteration.
    """

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, train: bool) -> Resized:
        shape = (3, 3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", fan_in_uniform, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        row = self.variable("batch_stats", "u", jnp.ones, (self.features,))
        matrix = kernel.reshape(-1, self.features).astype(jnp.float32)
        still = jax.lax.stop_gradient(matrix)
        u = _unit(row.value)
        v = _unit(still @ u)
        if train:
            u = _unit(v @ still)
            if not self.is_initializing():
                row.value = u
        kernel = (kernel / (v @ matrix @ u)).astype(self.dtype)
        x = pad(x.astype(self.dtype), ((1, 1),) * 3, "zeros")
        return add_bias(convolve(x, kernel, (self.stride,) * 3), bias)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


class PriorNet(nn.Module):
    """Map V_bp to materials. The U-Net halves log2(S) - 1 times, to a cube of 2."""

    width: float = 1.0
    norm: Literal["batch", "group"] = "batch"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Volumes, train: bool = False) -> Materials:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        levels = x.shape[1].bit_length() - 2
        widths = [scaled(BASE * min(2**i, WIDEST), self.width) for i in range(levels)]

        def normalise(x: Features, name: str) -> Features:
            if self.norm == "group":
                return GroupNorm(GROUPS, name=name, **types)(x)
            return BatchNorm(name=name, **types)(x, train)

        skips = []
        for i, features in enumerate(widths):
            x = SpectralConv(features, 2, name=f"down_{i}", **types)(x, train)
            x = normalise(x, f"down_norm_{i}") if i else x
            skips.append(x)
            x = nn.leaky_relu(x, SLOPE)
        skips.pop()
        for i in reversed(range(1, levels)):
            x = SpectralConv(widths[i - 1], name=f"up_{i}", **types)(upsample_linear(x), train)
            x = normalise(x, f"up_norm_{i}")
            x = nn.relu(jnp.concatenate([x, skips.pop()], axis=-1))
        x = SpectralConv(3, name="up_0", **types)(upsample_linear(x), train)
        return 0.5 * jnp.tanh(x.astype(jnp.float32)) + 0.5


def compose(materials: Materials) -> Volumes:
    """Return the CT: bone where it is probable, soft tissue elsewhere."""
    mask, bone, tissue = jnp.split(materials, 3, axis=-1)
    return mask * bone + (1 - mask) * tissue


def bone_probability(ct: Volumes) -> Volumes:
    """Return the target of the mask: 0 below the window, 1 above, linear within."""
    return jnp.clip((ct - BONE_LEVEL) / BONE_WINDOW + 0.5, 0, 1)


@dataclass(frozen=True)
class PriorTask:
    """Train by L1 of the volume and, for ``full``, cross-entropy of the mask and L1 of projections at a random angle.

    A projection is the mean of a ray over the volume's depth, so that its distance is on the volume's scale.
    """

    network: PriorNet
    geometry: ConeBeamGeometry
    kind: str = "l1"

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        variables = init_variables(self.network, key, example["x"])
        return {"model": variables.pop("params")}, variables

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: Array,
    ) -> tuple[Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the weighted sum of the terms: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``x``, V_bp, and ``y``, CTs, both (B, D, H, W, 1).
        """
        materials, model_state = train_pass(self.network, params["model"], model_state, example["x"], key)
        ct, truth = compose(materials), example["y"]
        metrics = {"volume": jnp.mean(jnp.abs(ct - truth))}
        if self.kind == "full":
            metrics["mask"] = cross_entropy(materials[..., :1], bone_probability(truth))
            metrics["projection"] = self._projection_distance(ct, truth, key)
        weights = {"volume": 1.0, "mask": 1.0, "projection": PROJECTION_WEIGHT}
        return sum(weights[name] * value for name, value in metrics.items()), (model_state, metrics)  # type: ignore

    def _projection_distance(self, ct: Volumes, truth: Volumes, key: Key) -> Array:
        pose = view_pose(jax.random.uniform(key, (), minval=0.0, maxval=180.0))
        # Projection is linear: project the difference once instead of both.
        error = jax.vmap(lambda v: forward_project(v, pose, self.geometry))((ct - truth)[..., 0])
        return jnp.mean(jnp.abs(error)) / self.geometry.extent_mm[1]


def cross_entropy(probability: Array, target: Array) -> Array:
    """Return the mean binary cross-entropy; probabilities are clipped to within 1e-6 of 0 and 1."""
    p = jnp.clip(probability, 1e-6, 1 - 1e-6)
    return -jnp.mean(target * jnp.log(p) + (1 - target) * jnp.log1p(-p))


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build 3DPriorNet from ``config.baselines.prior_net``; it takes any views, since V_bp carries their poses."""
    settings = config.baselines.prior_net
    for field, allowed in (("loss", LOSSES), ("norm", NORMS)):
        if settings[field] not in allowed:
            raise UserError(f"config.baselines.prior_net.{field} is {settings[field]!r}; allowed: {', '.join(allowed)}")
    if config.size < 8 or config.size & (config.size - 1):
        raise UserError(f"config.size is {config.size}; allowed for prior_net: powers of two from 8")
    network = PriorNet(settings.width, settings.norm, jnp.dtype(config.dtype))

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        return {"x": dvg.lift(dvg.render(ct, dvg.angles), dvg.angles), "y": ct}

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Volumes:
        return _reconstruct(network, variables["prior_net"], dvg.lift(views, dvg.angles))

    task = PriorTask(network, dvg.geometry, settings.loss)
    return Baseline("prior_net", "XRaySyn (3DPriorNet)", task, prepare, predict, in_view_table=True)


def _reconstruct(network: PriorNet, variables: Variables, x: Volumes) -> Volumes:
    return compose(evaluate_network(network, variables, x))
