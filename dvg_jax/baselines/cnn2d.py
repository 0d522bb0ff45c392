"""Define 2DCNN (Henzler et al. 2018, arXiv 1710.04867): a 2D encoder-decoder whose output channels are the depth.

    view, doubled --conv/2--> 4 poolings --> 4 upsamplings with added skips --> D x W image of H channels

The layers are those of the re-implementation in X2CT's public code; the original's second step, fusion with a
high-resolution X-ray, is left out at 128^3 there and here. Two views (a choice, none is published): ``early`` stacks
them as channels, ``late`` averages one network a view.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from dvg_jax.baselines.axes import FRONTAL, Angles, check_angles, to_volume
from dvg_jax.baselines.base import Baseline, Regression, from_views
from dvg_jax.baselines.layers import ConvNorm, conv, scaled, upsample_linear
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.networks.convolution import max_pool
from dvg_jax.networks.init import Normal
from dvg_jax.shapes import Images, NewImages, Views, Volumes

FUSIONS = ("early", "late")
BLOCKS = (4, 3, 3, 3, 5)


class Residual(nn.Module):
    """Apply 1 x 1, 3 x 3, 3 x 3 and add the input (through a 1 x 1 where the width changes)."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool) -> NewImages:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        same = x.shape[-1] == self.features
        middle = x.shape[-1] // 2 if same else x.shape[-1]
        y = ConvNorm(2, middle, 1, name="conv1", **types)(x, train)
        y = ConvNorm(2, middle, 3, name="conv2", **types)(y, train)
        y = ConvNorm(2, self.features, 3, name="conv3", **types)(y, train)
        shortcut = x if same else ConvNorm(2, self.features, 1, name="shortcut", **types)(x, train)
        return nn.relu(y + shortcut)


class DepthwiseUp(nn.Module):
    """Apply a transposed convolution 4 x 4, stride 2, padding 1, with one filter a channel."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> NewImages:
        b, rows, columns, channels = x.shape
        shape = (4, 4, 1, channels)
        # In float32: the kernel's gradient sums products over all pixels.
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape, self.param_dtype)[:, :, 0]
        x = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
        # Output 2 m takes x[m - 1] by tap 3 and x[m] by tap 1; output 2 m + 1 takes x[m] by tap 2, x[m + 1] by tap 0.
        taps = {0: ((0, 3), (1, 1)), 1: ((1, 2), (2, 0))}
        phases = [
            sum(x[:, i : i + rows, j : j + columns] * kernel[k, m] for i, k in taps[p] for j, m in taps[q])
            for p in (0, 1)
            for q in (0, 1)
        ]
        y = jnp.stack(phases, axis=1).astype(self.dtype).reshape(b, 2, 2, rows, columns, channels)
        return y.transpose(0, 3, 1, 4, 2, 5).reshape(b, 2 * rows, 2 * columns, channels)


class EncoderDecoder(nn.Module):
    """Map (B, S, S, views) to (B, S, S, S): rows, columns, depth along the ray. S is a multiple of 16.

    ``blocks`` counts the residual blocks of the four encoder levels and of the bottom.
    """

    width: float = 1.0
    blocks: tuple[int, ...] = BLOCKS
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Images, train: bool) -> NewImages:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        narrow, half, full = (scaled(c, self.width) for c in (64, 128, 256))

        def residuals(x: Images, widths: tuple[int, ...], name: str) -> NewImages:
            for i, features in enumerate(widths):
                x = Residual(features, **types, name=f"{name}_{i}")(x, train)
            return x

        # Double first, because the first layer halves: the re-implementation's X-rays are twice the CT's size.
        x = ConvNorm(2, narrow, 7, 2, name="stem", **types)(upsample_linear(image.astype(self.dtype)), train)
        x = residuals(x, (half,) * (self.blocks[0] - 1) + (full,), "encoder_1")
        skips = [x]
        for level in (2, 3, 4):
            x = residuals(max_pool(x), (full,) * self.blocks[level - 1], f"encoder_{level}")
            skips.append(x)
        x = residuals(max_pool(x), (full,) * self.blocks[4], "bottom")
        x = DepthwiseUp(**types, name="up_4")(x)
        for level in (3, 2, 1):
            x = residuals(x + skips.pop(), (full,), f"decoder_{level}")
            x = DepthwiseUp(**types, name=f"up_{level}")(x)
        x = ConvNorm(2, full, 1, name="last", **types)(x + skips.pop(), train)
        return conv(2, image.shape[1], 1, use_bias=False, name="depth", **types)(x).astype(jnp.float32)


class CNN2D(nn.Module):
    """Map views at ``angles`` to a CT."""

    angles: Angles = (FRONTAL,)
    width: float = 1.0
    fusion: str = "early"
    blocks: tuple[int, ...] = BLOCKS
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, views: Views, train: bool = False) -> Volumes:
        def lift(images: Images, angle: float, name: str) -> Volumes:
            network = EncoderDecoder(self.width, self.blocks, self.dtype, self.param_dtype, name=name)
            return to_volume(jnp.moveaxis(network(images, train), -1, 1)[..., None], angle)

        if self.fusion == "early":
            return lift(jnp.moveaxis(views[..., 0], 1, -1), FRONTAL, "network")
        parts = [lift(views[:, i], angle, f"network_{i}") for i, angle in enumerate(self.angles)]
        return jnp.mean(jnp.stack(parts), axis=0)


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build 2DCNN from ``config.baselines.cnn2d``."""
    settings = config.baselines.cnn2d
    check_angles("cnn2d", dvg.angles)
    if settings.fusion not in FUSIONS:
        raise UserError(f"config.baselines.cnn2d.fusion is {settings.fusion!r}; allowed: {', '.join(FUSIONS)}")
    if config.size % 16:
        raise UserError(f"config.size is {config.size}; allowed for cnn2d: multiples of 16")
    network = CNN2D(dvg.angles, settings.width, settings.fusion, tuple(settings.blocks), jnp.dtype(config.dtype))
    return from_views("cnn2d", "2DCNN", Regression(network, Normal(0.02)), network, dvg)
