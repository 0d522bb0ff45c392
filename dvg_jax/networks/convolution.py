"""Compute convolutions in the form that a device runs fastest; these are functions, without parameters.

The form belongs to the device for which a program is lowered, not to the machine that lowers it. On a GPU a convolution
is XLA's own (``native``), in two dimensions where its kernel has depth 1. XLA's CPU backend is many times slower at 3D
convolutions than at 2D ones, and slower still at strided ones. The CPU form (``sliced``) is ONE 2D convolution of
stride 1 over depth slices. The slices that a depth kernel covers are stacked in the input channels. If there are fewer
output channels, the taps of the depth kernel are stacked there instead, then shifted and added. Strides are moved to
the channels.

A transposed convolution computes all its output phases at once in its channels, on every device. As a convolution over
an input with holes it would take eight times as many products in the gradient of its kernel, over windows as large as
the volume.
"""

import functools
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.networks.platforms import by_platform
from dvg_jax.shapes import Features, Images, NewImages, Resized

Form = Literal["auto", "native", "sliced"]
Triple = tuple[int, int, int]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair, Pair]
PaddingMode = Literal["zeros", "replicate"]
Kernel = Float[Array, "kd kh kw C C_out"]
Kernel2D = Float[Array, "kh kw C C_out"]

VALID: Padding = ((0, 0), (0, 0), (0, 0))


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
    return by_platform(x, cpu=_pad_axes, default=_pad_at_once, amounts=amounts)


def _pad_axes(x: Features, amounts: Padding) -> Resized:
    """Copy the outermost values along one axis after the other, which is fastest on a CPU."""
    # jnp.pad also slices the batch axis, to add nothing there: over devices that is a collective each time.
    for axis, (low, high) in enumerate(amounts, start=1):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
        x = jnp.concatenate([*[first] * low, x, *[last] * high], axis=axis)
    return x


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pad_at_once(x: Features, amounts: Padding) -> Resized:
    """Read every voxel of the result from its place in ``x``: one kernel on a GPU, not one for each axis."""
    places = [
        jnp.clip(jnp.arange(-low, n + high), 0, n - 1) for n, (low, high) in zip(x.shape[1:4], amounts, strict=True)
    ]
    index = jnp.stack(jnp.meshgrid(*places, indexing="ij"), axis=-1)
    rows = jax.lax.GatherDimensionNumbers((0, 4), collapsed_slice_dims=(1, 2, 3), start_index_map=(1, 2, 3))
    sizes = (x.shape[0], 1, 1, 1, x.shape[4])
    return jax.lax.gather(x, index, rows, sizes, mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def _pad_forward(x: Features, amounts: Padding) -> tuple[Resized, None]:
    return _pad_at_once(x, amounts), None


def _pad_backward(amounts: Padding, _: None, given: Resized) -> tuple[Features]:
    """Add the gradients of copies to that of their voxel; a gather's own gradient is a scatter."""
    for axis, (low, high) in enumerate(amounts, start=1):
        n = given.shape[axis] - low - high
        part = partial(jax.lax.slice_in_dim, given, axis=axis)
        copies = [(part(i, i + 1), 0) for i in range(low)] + [
            (part(i, i + 1), n - 1) for i in range(low + n, low + n + high)
        ]
        given = part(low, low + n)
        for copy, place in copies:
            around = [(place, n - 1 - place, 0) if a == axis else (0, 0, 0) for a in range(given.ndim)]
            given += jax.lax.pad(copy, jnp.zeros((), copy.dtype), around)
    return (given,)


_pad_at_once.defvjp(_pad_forward, _pad_backward)


def convolve(
    x: Features, kernel: Kernel, strides: Triple = (1, 1, 1), padding: Padding = VALID, form: Form = "auto"
) -> Resized:
    """Cross-correlate features with a kernel.

    Args:
      x: (B, D, H, W, Cin).
      kernel: (kd, kh, kw, Cin, Cout).
      strides: along D, H and W.
      padding: zeros at the low and the high end of D, H and W.
      form: ``native``, ``sliced``, or ``auto``, which is ``sliced`` in a program for a CPU.
    """
    if form == "auto":
        return by_platform(x, kernel, cpu=_sliced, default=_native, strides=strides, padding=padding)
    return (_sliced if form == "sliced" else _native)(x, kernel, strides, padding)


def _native(x: Features, kernel: Kernel, strides: Triple, padding: Padding) -> Resized:
    if kernel.shape[:3] == strides == (1, 1, 1) and padding == VALID:
        return x @ kernel[0, 0, 0]
    if kernel.shape[0] == strides[0] == 1 and padding[0] == (0, 0):
        # cuDNN's 2D convolutions take features channels last, as they are; for 3D ones XLA turns them.
        numbers, amounts = ("NHWC", "HWIO", "NHWC"), padding[1:]
        slices = x.reshape(-1, *x.shape[2:])
        if any(sum(pair) >= k for pair, k in zip(amounts, kernel.shape[1:3], strict=True)):
            # The result is larger than the input. In the kernel's gradient XLA would take the input for the window.
            slices = jax.lax.optimization_barrier(jnp.pad(slices, ((0, 0), *amounts, (0, 0))))
            amounts = ((0, 0), (0, 0))
        y = jax.lax.conv_general_dilated(slices, kernel[0], strides[1:], amounts, dimension_numbers=numbers)
        return y.reshape(*x.shape[:2], *y.shape[1:])
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


def _sliced(x: Features, kernel: Kernel, strides: Triple, padding: Padding) -> Resized:
    x = pad(x, padding, "zeros")
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


def convolve_2d(
    x: Images,
    kernel: Kernel2D,
    strides: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    form: Form = "auto",
) -> NewImages:
    """Cross-correlate images with a kernel: a :func:`convolve` of depth 1.

    Args:
      x: (B, H, W, Cin).
      kernel: (kh, kw, Cin, Cout).
      strides: along H and W.
      padding: zeros at the low and the high end of H and W.
      form: as in :func:`convolve`.
    """
    return convolve(x[:, None], kernel[None], (1, *strides), ((0, 0), *padding), form)[:, 0]


def _without_strides(x: Array, kernel: Array, strides: Pair) -> tuple[Array, Array]:
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
      form: of the convolution, as in :func:`convolve`.
    """
    doubled = [k == 4 for k in kernel.shape[:3]]
    kernel = kernel[::-1, ::-1, ::-1]
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


def to_cells(x: Features, kernel: Kernel) -> Resized:
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
