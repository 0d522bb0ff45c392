"""Define layers that several comparison methods share. Arrays are channels last, (B, H, W, C) or (B, D, H, W, C)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.networks.blocks import BatchNorm, Conv, Conv2D
from dvg_jax.shapes import Accepted

CHANNEL_MULTIPLE = 8


def scaled(channels: int, width: float, multiple: int = CHANNEL_MULTIPLE) -> int:
    """Scale a channel count and round it to a multiple.

    Args:
      channels: the published count.
      width: the factor.
      multiple: the result is a multiple of it, and no less.
    """
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
    """Return a convolution in 2 or 3 dimensions.

    Args:
      dims: 2 for (B, H, W, C), 3 for (B, D, H, W, C).
      features: output channels.
      kernel: taps along each axis.
      stride: along each axis.
      pad: zeros at both ends of each axis; by default as many as keep the size at stride 1.
      use_bias: add a bias.
      **rest: further fields of the module.
    """
    amount = kernel // 2 if pad is None else pad
    flat = dims == 2
    sides = ((0, 0) if flat else (amount, amount), (amount, amount), (amount, amount))
    window, strides = (1 if flat else kernel, kernel, kernel), (1 if flat else stride, stride, stride)
    return (Conv2D if flat else Conv)(features, window, strides, sides, use_bias=use_bias, **rest)


class ConvNorm(nn.Module):
    """Apply a convolution, batch norm and, unless ``relu`` is off, ReLU."""

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
    """Lengthen every spatial axis by ``factor``, by repetition."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, factor, axis=axis)
    return x


def upsample_linear(x: Array) -> Array:
    """Double every spatial axis, linear between the centres of elements and constant beyond the outermost."""
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)], mode="edge")
        before, after = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x


class Standardize(nn.Module):
    """Normalise each channel to mean 0 and variance 1 over all training inputs so far, batch by batch."""

    @nn.compact
    def __call__(self, x: Float[Accepted, "*B C"], train: bool) -> Float[Array, "*B C"]:
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
