"""Define X2CT-CNN and X2CT-GAN (Ying et al. 2019, arXiv 1905.06902).

    a view --densely connected 2D encoder--> vector --A--> small cube --3D decoder--> CT in the view's frame
                        |                                                  ^
                        '------------ skips --B: repeated in depth---------'

With one view the decoder's volume is the CT. With two there is a branch each. At every level the mean of both branches'
features, turned to the CT's frame, replaces them and feeds a third decoder, whose volume is the CT. Instance norm has
no scale and offset. It uses each case's own statistics when predicting too, as the public test script does.

The GAN's critic reads a CT and the views repeated along their rays, as channels. X2CT-CNN is the same generator without
a critic.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float
from ml_collections import ConfigDict

from dvg_jax.baselines.axes import FRONTAL, Angles, check_angles, replicate, to_view, to_volume
from dvg_jax.baselines.base import Baseline, Regression, from_views, train_pass
from dvg_jax.baselines.layers import conv, scaled
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.keys import named
from dvg_jax.networks.blocks import ConvTranspose, fan_in_uniform, instance_norm
from dvg_jax.networks.discriminator import PatchDiscriminator
from dvg_jax.networks.init import Normal, init_variables
from dvg_jax.shapes import (
    Features,
    Images,
    Key,
    NewChannels,
    Resized,
    Variables,
    VariablesByGroup,
    VariablesByStage,
    Views,
    Volumes,
)
from dvg_jax.stages.base import Example, Metrics

DENSE_LAYERS = (6, 12, 24, 16, 6)
"""Layers of the five dense blocks."""

BLOCK_INPUTS = (64, 128, 256, 512, 512)
"""Channels that enter each dense block."""

DECODER_WIDTHS = (128, 64, 32, 16, 16, 16)
"""Channels of the decoder's levels, coarse to fine; the skip of a level has as many as the level below it."""

EXTRAS = (0, 2, 2, 2, 2, 1)
MAIN_EXTRAS = (0, 1, 1, 1, 1, 1)
"""Convolutions of each decoder level after its first, in a branch and in the main decoder."""

HALVINGS = 5
BOTTLENECK_WIDTH = 256
FACTOR = 4
"""Ratio of a dense layer's bottleneck to its growth."""


def norm_relu(x: Array) -> Array:
    """Apply instance norm and ReLU, before every convolution of the encoder and after every other one."""
    return nn.relu(instance_norm(x))


class Encoder(nn.Module):
    """Map (B, S, S, 1) to (B, C) and the five skips, fine to coarse: S, S/2, ... S/16 pixels wide."""

    width: float = 1.0
    growth: int = 32
    layers: tuple[int, ...] = DENSE_LAYERS
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Images) -> tuple[Float[Array, "B features"], list[Array]]:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        growth = scaled(self.growth, self.width, 4)
        x = jnp.pad(image.astype(self.dtype), ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
        x = norm_relu(conv(2, scaled(64, self.width), 7, pad=0, name="stem", **types)(x))
        skips = [x]
        for i, layers in enumerate(self.layers):
            x = conv(2, scaled(BLOCK_INPUTS[i], self.width), 3, 2, name=f"down_{i}", **types)(norm_relu(x))
            for j in range(layers):
                y = conv(2, FACTOR * growth, 1, name=f"dense_{i}_{j}_in", **types)(norm_relu(x))
                y = conv(2, growth, 3, name=f"dense_{i}_{j}_out", **types)(norm_relu(y))
                x = jnp.concatenate([x, y], axis=-1)
            if i < HALVINGS - 1:
                x = conv(2, x.shape[-1] // 2, 1, name=f"halve_{i}", **types)(norm_relu(x))
                skips.append(x)
        return x.mean(axis=(1, 2)), skips


class Level(nn.Module):
    """Apply a decoder level after its first convolution: ``extras`` more, then upsampling, except at the finest."""

    features: int
    extras: int
    last: bool
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Resized:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.extras):
            x = norm_relu(conv(3, x.shape[-1], 3, name=f"conv_{i}", **types)(x))
        if self.last:
            return nn.relu(conv(3, 1, 7, name="out", **types)(x))
        return norm_relu(ConvTranspose(self.features, (3, 3, 3), name="up", **types)(x))


class Generator(nn.Module):
    """Map views at ``angles``, (0,) or (0, 90), to a CT. S is a multiple of 32; the cube at the bottom is S/32 wide."""

    angles: Angles = (FRONTAL,)
    width: float = 1.0
    layers: tuple[int, ...] = DENSE_LAYERS
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, views: Views, train: bool = False) -> Volumes:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = [scaled(c, self.width) for c in DECODER_WIDTHS]
        bottom = views.shape[2] // 2**HALVINGS
        features, skips = [], []
        for i in range(len(self.angles)):
            vector, maps = Encoder(self.width, layers=self.layers, name=f"encoder_{i}", **types)(views[:, i])
            features.append(self._cube(vector, bottom, train, i))
            skips.append(maps)
        main = None
        for level in range(len(widths)):
            last, rest = level == len(widths) - 1, f"level_{level}"
            if level:
                features = [
                    self._join(x, maps.pop(), widths[level - 1], f"{i}_{rest}")
                    for i, (x, maps) in enumerate(zip(features, skips, strict=True))
                ]
            if len(self.angles) > 1:
                turned = [to_volume(x, angle) for x, angle in zip(features, self.angles, strict=True)]
                both = jnp.mean(jnp.stack(turned), axis=0)
                features = [to_view(both, angle) for angle in self.angles]
                if main is not None:
                    both = self._first(jnp.concatenate([both, main], axis=-1), widths[level - 1], f"main_{rest}")
                main = Level(widths[level], MAIN_EXTRAS[level], last, name=f"main_{rest}", **types)(both)
            features = [
                Level(widths[level], EXTRAS[level], last, name=f"branch_{i}_{rest}", **types)(x)
                for i, x in enumerate(features)
            ]
        result = to_volume(features[0], self.angles[0]) if main is None else main
        return result.astype(jnp.float32)

    def _cube(self, vector: Float[Array, "B features"], bottom: int, train: bool, branch: int) -> Features:
        """Apply connection A."""
        width = scaled(BOTTLENECK_WIDTH, self.width)
        x = nn.Dense(
            bottom**3 * width, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=fan_in_uniform,
            name=f"branch_{branch}_bottom",
        )(vector)  # fmt: skip
        x = nn.relu(nn.Dropout(self.dropout, deterministic=not train)(x))
        return x.reshape(-1, bottom, bottom, bottom, width)

    def _join(self, x: Features, skip: Float[Array, "B h w skip"], width: int, name: str) -> NewChannels:
        """Apply connection B: repeat the skip along the new depth axis and join it to the coarser level's features."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        skip = norm_relu(conv(2, width, 1, name=f"skip_{name}_map", **types)(skip))
        lifted = jnp.broadcast_to(skip[:, None], (*x.shape[:4], width))
        lifted = norm_relu(conv(3, width, 3, name=f"skip_{name}_volume", **types)(lifted))
        return self._first(jnp.concatenate([lifted, x], axis=-1), width, f"branch_{name}")

    def _first(self, x: Features, width: int, name: str) -> NewChannels:
        x = conv(3, width, 3, name=f"{name}_first", dtype=self.dtype, param_dtype=self.param_dtype)(x)
        return norm_relu(x)


@dataclass(frozen=True)
class GANWeights:
    """Hold the fields of ``config.baselines.x2ct_gan.loss``."""

    adversarial: float = 0.1
    reconstruction: float = 10.0
    projection: float = 10.0


@dataclass(frozen=True)
class GANTask:
    """Train by a least-squares GAN loss, voxel and projection distances.

    In the published order, generator step and then critic step, one generated CT serves both. So one backward pass, in
    which neither loss reaches the other's parameters, gives the same steps.
    """

    generator: Generator
    critic: PatchDiscriminator
    weights: GANWeights

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        generator = init_variables(self.generator, named(key, "generator"), example["x"], kernels=Normal(0.02))
        critic_input = self._critic_input(example["y"], example["x"])
        critic = init_variables(self.critic, named(key, "critic"), critic_input, kernels=Normal(0.02))
        return {"model": generator["params"], "critic": critic["params"]}, {}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: Array,
    ) -> tuple[Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the weighted sum of all terms: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``x``, views (B, V, h, w, 1), and ``y``, CTs (B, D, H, W, 1).
        """
        views, real, weights = example["x"], example["y"], self.weights
        fake, _ = train_pass(self.generator, params["model"], {}, views, key)

        def judge(critic: Variables, ct: Volumes) -> Array:
            return self.critic.apply({"params": critic}, self._critic_input(ct, views))[0]

        still = jax.lax.stop_gradient
        metrics = {
            "generator": jnp.mean((judge(still(params["critic"]), fake) - 1) ** 2),
            "reconstruction": jnp.mean((fake - real) ** 2),
            "projection": projection_distance(fake, real),
            "critic": jnp.mean((judge(params["critic"], real) - 1) ** 2)
            + jnp.mean(judge(params["critic"], still(fake)) ** 2),
        }
        loss = weights.adversarial * (metrics["generator"] + metrics["critic"])
        loss += weights.reconstruction * metrics["reconstruction"] + weights.projection * metrics["projection"]
        return loss, (model_state, metrics)

    def _critic_input(self, ct: Volumes, views: Views) -> Features:
        """Return the critic's input: a CT and each view along its rays, as channels."""
        lifted = [replicate(views[:, i], angle) for i, angle in enumerate(self.generator.angles)]
        return jnp.concatenate([ct, *lifted], axis=-1)


def projection_distance(a: Volumes, b: Volumes) -> Array:
    """Return the mean absolute difference of the projections along D, H and W, each a mean of absolute values."""
    distances = [jnp.mean(jnp.abs(jnp.abs(a).mean(axis) - jnp.abs(b).mean(axis))) for axis in (1, 2, 3)]
    return sum(distances) / 3  # type: ignore[return-value]


def build_cnn(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build X2CT-CNN: the generator with squared error alone."""
    generator = _generator("x2ct_cnn", config, dvg)
    return from_views("x2ct_cnn", "X2CT-CNN", Regression(generator, Normal(0.02)), generator, dvg)


def build_gan(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build X2CT-GAN from ``config.baselines.x2ct_gan``."""
    generator, settings = _generator("x2ct_gan", config, dvg), config.baselines.x2ct_gan
    critic = PatchDiscriminator(3, scaled(64, settings.width), norm="instance", dtype=generator.dtype)
    task = GANTask(generator, critic, GANWeights(**settings.loss))
    return from_views("x2ct_gan", "X2CT-GAN", task, generator, dvg, in_view_table=True)


def _generator(name: str, config: ConfigDict, dvg: DVG) -> Generator:
    settings = config.baselines[name]
    check_angles(name, dvg.angles)
    if config.size % 2**HALVINGS:
        raise UserError(f"config.size is {config.size}; allowed for {name}: multiples of {2**HALVINGS}")
    return Generator(dvg.angles, settings.width, tuple(settings.layers), settings.dropout, jnp.dtype(config.dtype))
