"""Define the layers that networks are built from, on the functions of ``convolution.py``.

Initial values are PyTorch's defaults. Parameters do not depend on the form of a convolution.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.networks.convolution import (
    VALID,
    Form,
    Kernel,
    Padding,
    PaddingMode,
    Triple,
    convolve,
    pad,
    to_cells,
    upsample,
)
from dvg_jax.shapes import Features, Images, Key, NewImages, Resized

MISSING_TAPS = {1: (0, 0), 2: (1, 1), 3: (0, 1), 4: (0, 0)}
"""Zero padding that turns any kernel into the 4-tap form that ``upsample`` implements."""


def fan_in_uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Draw uniformly within +-1/sqrt(fan in), PyTorch's default, which the published networks start from.

    Args:
      key: decides the numbers.
      shape: of the kernel, output channels last; the fan in is the product of the other axes.
      dtype: of the result.
    """
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def add_bias(y: Float[Array, "*B C"], bias: Float[Array, "C"] | None) -> Float[Array, "*B C"]:
    """Add a bias in float32: its gradient sums over all voxels, and in bfloat16 a sum of ones ends at 256."""
    return y if bias is None else (y.astype(jnp.float32) + bias).astype(y.dtype)


class Dense(nn.Module):
    """Compute x kernel + bias along the last axis, with PyTorch's initial values."""

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C_out"]:
        shape = (x.shape[-1], self.features)
        y = x.astype(self.dtype) @ self.param("kernel", fan_in_uniform, shape, self.param_dtype).astype(self.dtype)
        zeros = nn.initializers.zeros
        return add_bias(y, self.param("bias", zeros, (self.features,), self.param_dtype) if self.use_bias else None)


class _Kernel(nn.Module):
    """Hold the parameters that ``Conv`` and ``ConvTranspose`` share."""

    features: int
    kernel_size: Triple
    strides: Triple = (1, 1, 1)
    padding: Padding = VALID
    padding_mode: PaddingMode = "zeros"
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    form: Form = "auto"

    def parameters(self, channels: int, window: tuple[int, ...] | None = None) -> tuple[Array, Array | None]:
        """Return kernel (*window, Cin, Cout) in the compute type, and bias; the window defaults to ``kernel_size``."""
        shape = (*(window or self.kernel_size), channels, self.features)
        kernel = self.param("kernel", fan_in_uniform, shape, self.param_dtype).astype(self.dtype)
        if not self.use_bias:
            return kernel, None

        def bias_init(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return kernel, self.param("bias", bias_init, (self.features,), self.param_dtype)

    def convolve(self, x: Features, kernel: Kernel) -> Resized:
        """Pad as ``padding`` says and cross-correlate; zeros are added by the convolution itself."""
        if self.padding_mode == "zeros":
            return convolve(x, kernel, self.strides, self.padding, self.form)
        return convolve(pad(x, self.padding, self.padding_mode), kernel, self.strides, form=self.form)


class Conv(_Kernel):
    """Cross-correlate over D, H, W with (low, high) padding per axis, channels last."""

    @nn.compact
    def __call__(self, x: Features) -> Resized:
        kernel, bias = self.parameters(x.shape[-1])
        return add_bias(self.convolve(x.astype(self.dtype), kernel), bias)


class Conv2D(_Kernel):
    """Cross-correlate (B, H, W, C): a :class:`Conv` whose depth is 1, with a kernel (kh, kw, Cin, Cout).

    ``kernel_size``, ``strides`` and ``padding`` are those of a ``Conv``, with 1, 1 and (0, 0) along D.
    """

    @nn.compact
    def __call__(self, x: Images) -> NewImages:
        if self.kernel_size[0] != 1 or self.strides[0] != 1:
            raise UserError(
                f"2D convolution's kernel is {self.kernel_size}, strides {self.strides}; allowed: 1 along D"
            )
        kernel, bias = self.parameters(x.shape[-1], self.kernel_size[1:])
        return add_bias(self.convolve(x.astype(self.dtype)[:, None], kernel[None])[:, 0], bias)


class ConvTranspose(_Kernel):
    """Double every axis whose kernel is 4 (stride 2, padding 1 of ``padding_mode``); other kernels are 1.

    With ``replicate`` this is the VQGAN's transposed convolution: edge padding, then PyTorch's with padding 3.
    Kernel 3 is PyTorch's with stride 2, padding 1 and output padding 1. Kernel 2 is PyTorch's with stride 2 and no
    padding.
    """

    @nn.compact
    def __call__(self, x: Features) -> Resized:
        if any(k not in MISSING_TAPS for k in self.kernel_size):
            raise UserError(f"transposed convolution's kernel is {self.kernel_size}; allowed: 1 to 4 along each axis")
        kernel, bias = self.parameters(x.shape[-1])
        if self.kernel_size == (2, 2, 2):
            return add_bias(to_cells(x.astype(self.dtype), kernel), bias)
        kernel = jnp.pad(kernel, (*(MISSING_TAPS[k] for k in self.kernel_size), (0, 0), (0, 0)))
        amounts = tuple((1, 1) if k > 1 else (0, 0) for k in self.kernel_size)
        x = pad(x.astype(self.dtype), amounts, self.padding_mode)  # type: ignore[arg-type]
        return add_bias(upsample(x, kernel, self.form), bias)


class GroupNorm(nn.Module):
    """Normalise groups of channels over space, always in float32."""

    num_groups: int
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise UserError(f"num_groups is {self.num_groups}; allowed: divisors of the {channels} channels")
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        groups = x.reshape(*x.shape[:-1], self.num_groups, -1)
        # A CPU computes element by element along the last axis, which must not be a group's few channels.
        mean, variance = (
            jnp.broadcast_to(y, (len(x), 1, 1, 1, *groups.shape[-2:])).reshape(len(x), 1, 1, 1, channels)
            for y in _moments(groups)
        )
        y = (x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


def _moments(groups: Float[Array, "B D H W n c"]) -> tuple[Array, Array]:
    """Return mean and biased variance of each group in float32, (B, 1, 1, 1, n, 1).

    E[x^2] - E[x]^2 needs one pass, and loses the digits by which the mean is large compared with the spread. Values in
    bfloat16 do not have these digits. Values in float32 have them, and are read twice.
    """
    x = groups.astype(jnp.float32)
    if groups.dtype == jnp.bfloat16:
        # Both means in one array: a GPU adds them up in the same kernels.
        both = jnp.stack([x.mean(-1, keepdims=True), jnp.square(x).mean(-1, keepdims=True)])
        mean, square = both.mean((2, 3, 4), keepdims=True)
        return mean, jnp.maximum(square - jnp.square(mean), 0)
    mean = x.mean((1, 2, 3, 5), keepdims=True)
    return mean, jnp.square(x - mean).mean((1, 2, 3, 5), keepdims=True)


class BatchNorm(nn.Module):
    """Normalise as PyTorch does: by the batch's biased variance, with a running unbiased one (momentum 0.1)."""

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"], train: bool) -> Float[Array, "*B C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            # The variance does not depend on the mean it is taken about: its gradient needs no sum of its own.
            var = jnp.mean(jnp.square(x - jax.lax.stop_gradient(mean)), axes)
            if not self.is_initializing():
                count = x.size / channels
                unbiased = var * count / max(count - 1, 1)
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    running.value += self.momentum * (jax.lax.stop_gradient(new) - running.value)
        y = (x - mean) * jax.lax.rsqrt(var + self.epsilon) * scale + bias
        return y.astype(self.dtype)


def instance_norm(x: Float[Array, "B *space C"], epsilon: float = 1e-5) -> Float[Array, "B *space C"]:
    """Normalise each channel of each case to mean 0 and variance 1 over space, in float32; (B, ..., C) of any rank.

    A map of one element is left as it is: its deviation from its mean is 0 and carries no information.
    """
    if math.prod(x.shape[1:-1]) == 1:
        return x
    axes = tuple(range(1, x.ndim - 1))
    y = x.astype(jnp.float32)
    y = y - y.mean(axes, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y**2, axes, keepdims=True) + epsilon)).astype(x.dtype)
