"""Define BX2S-Net (Chen et al. 2023, Comput. Biol. Med. 154, 106615): both views lifted into one frame, then all in 3D.

    views, z-scored, repeated along their rays --> encoder, 4 halvings --> decoder, guided at every level by all four
    encoder levels (full-scale feature attention) --> CT

The lift has no parameters. The published network segments bone. Its use for CT intensity is this project's choice: one
linear output channel without norm, and squared error.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from dvg_jax.baselines.axes import FRONTAL, Angles, check_angles, replicate
from dvg_jax.baselines.base import DISTANCES, Baseline, Regression, from_views
from dvg_jax.baselines.layers import ConvNorm, conv, upsample_nearest
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.networks.blocks import BatchNorm, ConvTranspose
from dvg_jax.networks.convolution import max_pool
from dvg_jax.shapes import Features, Resized, Views, Volumes

LEVELS = 4
"""Encoder levels that guide the decoder; there is one more below them."""

FLAT = 1e-6
"""Standard deviation under which the z-score of a view is 0."""


def lift(views: Views, angles: Angles) -> Features:
    """Normalise each view by its own z-score and repeat it along its rays; (B, D, H, W, V)."""
    centred = views - views.mean(axis=(2, 3), keepdims=True)
    scores = centred / jnp.maximum(views.std(axis=(2, 3), keepdims=True), FLAT)
    return jnp.concatenate([replicate(scores[:, i], angle) for i, angle in enumerate(angles)], axis=-1)


class BX2SNet(nn.Module):
    """Map views at ``angles`` to a CT. S is a multiple of 16; ``base``, the channels at full size, of 4."""

    angles: Angles = (FRONTAL, 90.0)
    base: int = 8
    guided: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, views: Views, train: bool = False) -> Volumes:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def cbr(x: Features, features: int, name: str, stride: int = 1) -> Resized:
            return ConvNorm(3, features, 3, stride, use_bias=True, name=name, **types)(x, train)

        x = cbr(lift(views, self.angles).astype(self.dtype), self.base, "encoder_0")
        maps = [x]
        for i in range(1, LEVELS + 1):
            x = cbr(cbr(x, self.base * 2**i, f"encoder_{i}_down", 2), self.base * 2**i, f"encoder_{i}")
            maps.append(x)
        maps.pop()
        for i in reversed(range(LEVELS)):
            features = self.base * 2**i
            x = ConvTranspose(features, (2, 2, 2), name=f"decoder_{i}_up", **types)(x)
            x = nn.relu(BatchNorm(name=f"decoder_{i}_up_norm", **types)(x, train))
            x = cbr(x, features, f"decoder_{i}")
            if self.guided:
                x = Guidance(i, name=f"guide_{i}", **types)(maps, x, train)
        return conv(3, 1, 3, name="out", **types)(x).astype(jnp.float32)


class Guidance(nn.Module):
    """Resize all encoder maps to the decoder's ``level``, weight them by channel, and join them to the decoder."""

    level: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: list[Array], x: Features, train: bool) -> Features:
        """Return the guided features of the level.

        Args:
          maps: the encoder's levels, (B, D, H, W, C) each, fine to coarse.
          x: the decoder's features at this level.
          train: normalise by the batch and update the running statistics.
        """
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = x.shape[-1]

        def cbr(x: Features, features: int, name: str) -> Resized:
            return ConvNorm(3, features, 3, use_bias=True, name=name, **types)(x, train)

        scales = []
        for i, y in enumerate(maps):
            factor = 2 ** max(self.level - i, 0)
            y = cbr(max_pool(y, factor, factor), features // LEVELS, f"map_{i}")
            scales.append(upsample_nearest(y, 2 ** max(i - self.level, 0)))
        joined = jnp.concatenate(scales, axis=-1)
        guide = cbr(jnp.concatenate([joined, x], axis=-1), features, "guide").mean(axis=(1, 2, 3))
        guide = nn.relu(nn.Dense(features, use_bias=False, name="squeeze", **types)(guide))
        guide = nn.sigmoid(nn.Dense(features, use_bias=False, name="excite", **types)(guide))
        joined = joined * guide[:, None, None, None]
        return cbr(jnp.concatenate([joined, x], axis=-1), features, "join")


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build BX2S-Net from ``config.baselines.bx2s``."""
    settings = config.baselines.bx2s
    check_angles("bx2s", dvg.angles)
    if config.size % 2**LEVELS:
        raise UserError(f"config.size is {config.size}; allowed for bx2s: multiples of {2**LEVELS}")
    if settings.base < LEVELS or settings.base % LEVELS:
        raise UserError(f"config.baselines.bx2s.base is {settings.base}; allowed: multiples of {LEVELS}")
    if settings.loss not in DISTANCES:
        raise UserError(f"config.baselines.bx2s.loss is {settings.loss!r}; allowed: {', '.join(DISTANCES)}")
    network = BX2SNet(dvg.angles, settings.base, settings.guided, jnp.dtype(config.dtype))
    return from_views("bx2s", "BX2S-Net", Regression(network, distance=settings.loss), network, dvg)
