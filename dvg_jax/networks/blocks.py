"""Define all convolutions and the layers that are built from them.

On a GPU a 3D convolution is XLA's own (``native``). XLA's CPU backend is many times slower at 3D convolutions than at
2D ones, and slower still at strided ones. The CPU form (``sliced``) is ONE 2D convolution of stride 1 over depth
slices. The slices that a depth kernel covers are stacked in the input channels. If there are fewer output channels,
the taps of the depth kernel are stacked there instead, then shifted and added. Strides are moved to the channels. A
transposed convolution computes all its output phases at once in its channels. Both forms have the same parameters.
"""

import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.shapes import Features, Images, Key, NewImages, Resized

Form = Literal["auto", "native", "sliced"]
Triple = tuple[int, int, int]
Padding = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
PaddingMode = Literal["zeros", "replicate"]
Kernel = Float[Array, "kd kh kw C C_out"]
Kernel2D = Float[Array, "kh kw C C_out"]

VALID: Padding = ((0, 0), (0, 0), (0, 0))

MISSING_TAPS = {1: (0, 0), 2: (1, 1), 3: (0, 1), 4: (0, 0)}
"""Zero padding that turns any kernel into the 4-tap form that ``upsample`` implements."""


def is_sliced(form: Form) -> bool:
    """Tell whether ``form`` means 2D convolutions on this backend."""
    return form == "sliced" or (form == "auto" and jax.default_backend() == "cpu")


def pad(x: Features, amounts: Padding, mode: PaddingMode) -> Float[Array, "B D_out H_out W_out C"]:
    """Pad D, H and W with zeros or with copies of the outermost values.

    Args:
      x: (B, D, H, W, C).
      amounts: voxels to add at the low and the high end of D, H and W.
      mode: ``zeros`` or ``replicate``.

    Raises:
      UserError: ``mode`` is another word.
    """
    if mode not in ("zeros", "replicate"):
        raise UserError(f"padding mode is {mode!r}; allowed: zeros, replicate")
    if amounts == VALID:
        return x
    if mode == "zeros":
        return jnp.pad(x, ((0, 0), *amounts, (0, 0)))
    # jnp.pad also slices the batch axis, to add nothing there: over devices that is a collective each time.
    for axis, (low, high) in enumerate(amounts, start=1):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
        x = jnp.concatenate([*[first] * low, x, *[last] * high], axis=axis)
    return x


def convolve(x: Features, kernel: Kernel, strides: Triple = (1, 1, 1), form: Form = "auto") -> Resized:
    """Cross-correlate features with a kernel, without padding.

    Args:
      x: (B, D, H, W, Cin).
      kernel: (kd, kh, kw, Cin, Cout).
      strides: along D, H and W.
      form: ``native``, ``sliced``, or ``auto``, which is ``sliced`` on a CPU.
    """
    if not is_sliced(form):
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=numbers)
    depth, _, _, channels, features = kernel.shape
    slices = (x.shape[1] - depth) // strides[0] + 1
    if features < channels and strides == (1, 1, 1):
        # Stacking taps in the output channels instead of slices in the input channels: 1.3 to 4 times as fast here.
        flat = kernel.transpose(1, 2, 3, 0, 4).reshape(*kernel.shape[1:4], -1)
        y = _convolve_slices(x.reshape(-1, *x.shape[2:]), flat)
        y = y.reshape(*x.shape[:2], *y.shape[1:3], depth, features)
        return functools.reduce(jnp.add, [y[:, i : i + slices, ..., i, :] for i in range(depth)])
    span = strides[0] * (slices - 1) + 1
    x = jnp.concatenate([x[:, i : i + span : strides[0]] for i in range(depth)], axis=-1)
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, features)
    x, flat = _without_strides(x.reshape(-1, *x.shape[2:]), flat, strides[1:])
    y = _convolve_slices(x, flat)
    return y.reshape(-1, slices, *y.shape[1:])


def convolve_2d(x: Images, kernel: Kernel2D, strides: tuple[int, int] = (1, 1), form: Form = "auto") -> NewImages:
    """Cross-correlate images with a kernel, without padding.

    Args:
      x: (B, H, W, Cin).
      kernel: (kh, kw, Cin, Cout).
      strides: along H and W.
      form: as in :func:`convolve`.
    """
    if is_sliced(form):
        return convolve(x[:, None], kernel[None], (1, *strides), form)[:, 0]
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _without_strides(x: Array, kernel: Array, strides: tuple[int, int]) -> tuple[Array, Array]:
    """Turn a strided convolution into one of stride 1: each cell of strides becomes channels of slice and kernel."""
    if strides == (1, 1):
        return x, kernel
    (sh, sw), (n, height, width, channels), (kh, kw, _, features) = strides, x.shape, kernel.shape
    taps = (-(-kh // sh), -(-kw // sw))
    kernel = jnp.pad(kernel, ((0, taps[0] * sh - kh), (0, taps[1] * sw - kw), (0, 0), (0, 0)))
    cells = ((height - kh) // sh + taps[0], (width - kw) // sw + taps[1])
    # Rows that no window reaches are cut off; rows that only the kernel's added zeros reach are added.
    missing = (max(cells[0] * sh - height, 0), max(cells[1] * sw - width, 0))
    x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))[:, : cells[0] * sh, : cells[1] * sw]
    x = x.reshape(n, cells[0], sh, cells[1], sw, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = kernel.reshape(taps[0], sh, taps[1], sw, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return x.reshape(n, *cells, -1), kernel.reshape(*taps, -1, features)


def _convolve_slices(x: Images, kernel: Kernel2D) -> NewImages:
    """Cross-correlate (N, H, W, Cin) with (kh, kw, Cin, Cout), without padding and with stride 1."""
    kh, kw, channels, features = kernel.shape
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    if kh == kw == 1 or height < kh or width < kw:
        # XLA's convolution takes 10 to 100 times as long as a product where 3 x 3 taps give 2 x 2 pixels.
        shifts = [x[:, i : i + height, j : j + width] for i in range(kh) for j in range(kw)]
        return jnp.concatenate(shifts, axis=-1) @ kernel.reshape(kh * kw * channels, features)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def upsample(x: Features, kernel: Kernel, form: Form = "auto") -> Resized:
    """Apply a transposed convolution: axes with kernel 4 are doubled, axes with kernel 1 keep their length.

    With i counted from the unpadded start, ``out[o]`` sums ``x[i] kernel[o + 1 - 2 i]``: PyTorch's ConvTranspose of
    kernel 4, stride 2, padding 1.

    Args:
      x: (B, D, H, W, Cin), padded by 1 at both ends of each axis to be doubled.
      kernel: (kd, kh, kw, Cin, Cout), 4 or 1 taps along each axis.
      form: as in :func:`convolve`.
    """
    doubled = [k == 4 for k in kernel.shape[:3]]
    kernel = kernel[::-1, ::-1, ::-1]
    if not is_sliced(form):
        dilation = [2 if d else 1 for d in doubled]
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), VALID, lhs_dilation=dilation, dimension_numbers=numbers
        )
    features = kernel.shape[-1]
    # Each axis of 4 taps is 2 taps by 2 output phases; an even output 2 m reads the window that starts one before m,
    # an odd one the next window.
    split = [n for d in doubled for n in ((2, 2) if d else (1, 1))]
    phases = kernel.reshape(*split, -1, features).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    y = convolve(x, phases.reshape(*phases.shape[:4], -1), form=form)
    y = y.reshape(*y.shape[:4], *phases.shape[4:])
    for axis, d in enumerate(doubled, start=1):
        even = jax.lax.index_in_dim(y, 0, 4, keepdims=False)
        if not d:
            y = even
            continue
        odd = jax.lax.index_in_dim(y, 1, 4, keepdims=False)
        n = y.shape[axis] - 1
        pair = [jax.lax.slice_in_dim(even, 0, n, axis=axis), jax.lax.slice_in_dim(odd, 1, n + 1, axis=axis)]
        y = jnp.stack(pair, axis=axis + 1)
        y = y.reshape(*y.shape[:axis], 2 * n, *y.shape[axis + 2 :])
    return y


def _to_cells(x: Features, kernel: Kernel) -> Resized:
    """Apply a transposed convolution of kernel 2, stride 2: every voxel becomes a cell of 2 x 2 x 2 of its own."""
    b, d, h, w, _ = x.shape
    y = jnp.einsum("bdhwc,ijkcf->bdihjwkf", x, kernel)
    return y.reshape(b, 2 * d, 2 * h, 2 * w, -1)


def max_pool(x: Float[Array, "B *space C"], window: int = 2, stride: int = 2) -> Float[Array, "B *space_out C"]:
    """Return the maxima of windows along every spatial axis, without padding.

    XLA's reduction over windows takes ten times as long on a CPU. Values are selected instead of compared with the
    maximum: the gradient of ``max`` looks for the value that equals the result, and finds none where XLA computes that
    value twice with different rounding.

    Args:
      x: (B, ..., C).
      window: elements of a window along each spatial axis.
      stride: elements from one window to the next.
    """
    for axis in range(1, x.ndim - 1):
        span = (x.shape[axis] - window) // stride * stride + 1
        shifts = [jax.lax.slice_in_dim(x, i, i + span, stride=stride, axis=axis) for i in range(window)]
        x = functools.reduce(lambda a, b: jnp.where(a >= b, a, b), shifts)
    return x


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


class Conv(_Kernel):
    """Cross-correlate over D, H, W with (low, high) padding per axis, channels last."""

    @nn.compact
    def __call__(self, x: Features) -> Resized:
        kernel, bias = self.parameters(x.shape[-1])
        x = pad(x.astype(self.dtype), self.padding, self.padding_mode)
        return add_bias(convolve(x, kernel, self.strides, self.form), bias)


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
        x = pad(x.astype(self.dtype)[:, None], self.padding, self.padding_mode)
        return add_bias(convolve_2d(x[:, 0], kernel, self.strides[1:], self.form), bias)


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
            return add_bias(_to_cells(x.astype(self.dtype), kernel), bias)
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
        if x.shape[-1] % self.num_groups:
            raise UserError(f"num_groups is {self.num_groups}; allowed: divisors of the {x.shape[-1]} channels")
        # Flax's default, E[x^2] - E[x]^2, loses every digit where the mean is large compared with the spread.
        norm = nn.GroupNorm(
            self.num_groups,
            epsilon=self.epsilon,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            use_fast_variance=False,
        )
        nn.share_scope(self, norm)
        return norm(x).astype(self.dtype)


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
