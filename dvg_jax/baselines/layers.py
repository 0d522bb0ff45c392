"""Pieces that several comparison methods share. Arrays are channels last, (B, H, W, C) or (B, D, H, W, C)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from dvg_jax.networks.blocks import BatchNorm, Conv, Conv2D

CHANNEL_MULTIPLE = 8


def scaled(channels: int, width: float, multiple: int = CHANNEL_MULTIPLE) -> int:
    """A channel count times ``width``, as a multiple of ``multiple`` and no less than that."""
    return max(round(channels * width / multiple), 1) * multiple


def conv(
    dims: int,
    features: int,
    kernel: int,
    stride: int = 1,
    pad: int | None = None,
    use_bias: bool = True,
    **rest: Any,
) -> nn.Module:
    """A convolution in 2 or 3 dimensions, zero-padded so that stride 1 keeps the size unless ``pad`` is given."""
    amount = kernel // 2 if pad is None else pad
    flat = dims == 2
    sides = ((0, 0) if flat else (amount, amount), (amount, amount), (amount, amount))
    window, strides = (1 if flat else kernel, kernel, kernel), (1 if flat else stride, stride, stride)
    return (Conv2D if flat else Conv)(features, window, strides, sides, use_bias=use_bias, **rest)


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless ``relu`` is off, ReLU."""

    dims: int
    features: int
    kernel: int
    stride: int = 1
    pad: int | None = None
    use_bias: bool = False
    relu: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv(
            self.dims, self.features, self.kernel, self.stride, self.pad, self.use_bias, name="conv", **types
        )(x)  # fmt: skip
        x = BatchNorm(**types, name="norm")(x, train)
        return nn.relu(x) if self.relu else x


def upsample_nearest(x: Array, factor: int = 2) -> Array:
    """Every spatial axis ``factor`` times as long, by repetition."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, factor, axis=axis)
    return x


def upsample_linear(x: Array) -> Array:
    """Every spatial axis twice as long, linear between the centres of elements, held beyond the outermost."""
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x


class Standardize(nn.Module):
    """Each channel to mean 0 and variance 1 over all training inputs so far, counted batch by batch."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        axes, channels = tuple(range(x.ndim - 1)), x.shape[-1]
        seen = self.variable("batch_stats", "count", jnp.zeros, ())
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train and not self.is_initializing():
            seen.value += 1
            apart = x.mean(axes) - mean.value
            mean.value += apart / seen.value
            between = apart * (x.mean(axes) - mean.value)
            var.value += (x.var(axes) - var.value + between) / seen.value
        return (x - mean.value) * jax.lax.rsqrt(jnp.maximum(var.value, 1e-12))
