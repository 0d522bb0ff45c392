"""Compare two CTs in [0, 1], where 1 is the window of 2500 HU, or two X-rays.

Slice-wise metrics are means over the slices along each of D, H and W, and then over the three axes, as X2CT-GAN's
published protocol has them. ``docs/metrics.md`` defines each.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.errors import UserError
from dvg_jax.metrics.tissue import BANDS, mae_hu_by_band
from dvg_jax.networks.lpips import Pictures
from dvg_jax.shapes import Accepted, Image, Volume

WINDOW = 7
K1, K2 = 0.01, 0.03
BEST_PSNR = 100.0
"""The PSNR of an exact match, in dB."""

X2CT_PEAK = 4095.0

Stack = Float[Accepted, "n *sides"]
"""``n`` images or volumes."""

Perceptual = Callable[[Pictures, Pictures], Float[Array, "n"]]


def psnr(mse: Accepted, peak: float | Array = 1.0) -> Array:
    """Return the peak signal-to-noise ratio in dB: 100 where the error is exactly 0, NaN where it is NaN."""
    return jnp.where(mse == 0, BEST_PSNR, 10 * jnp.log10(peak**2 / jnp.where(mse == 0, 1.0, mse)))


def psnr_volume(a: Volume, b: Volume, peak: float | Array = 1.0) -> Array:
    """Return the PSNR of the whole volume in dB.

    Args:
      a: volume, (D, H, W).
      b: volume of the same shape and unit.
      peak: the largest possible value, in that unit.
    """
    return psnr(jnp.mean((a - b) ** 2), peak)


def psnr_slices(a: Volume, b: Volume, peak: float = 1.0) -> Float[Array, "3"]:
    """Return the mean PSNR of the slices along D, H and W in dB, (3,).

    Args:
      a: volume, (D, H, W).
      b: volume of the same shape and unit.
      peak: the largest possible value, in that unit.
    """
    error = (a - b) ** 2
    return jnp.stack([jnp.mean(psnr(error.mean(axis=axes), peak)) for axes in ((1, 2), (0, 2), (0, 1))])


def ssim_images(a: Stack, b: Stack) -> Float[Array, "n"]:
    """Return structural similarity (Wang et al. 2004): uniform 7 x 7 window, sample covariance, range 1, no borders."""
    return _ssim(a, b, axes=(1, 2))


def ssim_3d(a: Volume, b: Volume) -> Array:
    """Return structural similarity with windows of 7 x 7 x 7 voxels. Not comparable with slice-wise SSIM."""
    return _ssim(a[None], b[None], axes=(1, 2, 3))[0]


def _ssim(a: Stack, b: Stack, axes: tuple[int, ...]) -> Float[Array, "n"]:
    if min(a.shape[1:]) < WINDOW:
        raise UserError(f"SSIM is asked for of shape {a.shape[1:]}; allowed: sides of {WINDOW} or more")

    def mean(x: Stack) -> Array:
        total = x
        for axis in axes:
            window = tuple(WINDOW if i == axis else 1 for i in range(x.ndim))
            total = jax.lax.reduce_window(total, 0.0, jax.lax.add, window, (1,) * x.ndim, "VALID") / WINDOW
        return total

    mean_a, mean_b = mean(a), mean(b)
    count = WINDOW ** len(axes)
    sample = count / (count - 1)
    var_a, var_b = sample * (mean(a * a) - mean_a**2), sample * (mean(b * b) - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = K1**2, K2**2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return jnp.mean(similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)), axis=axes)


def ssim_slices(a: Volume, b: Volume) -> Float[Array, "3"]:
    """Return the mean SSIM of the slices along D, H and W."""
    return jnp.stack([jnp.mean(ssim_images(jnp.moveaxis(a, i, 0), jnp.moveaxis(b, i, 0))) for i in range(3)])


def mae_hu(a: Volume, b: Volume) -> Array:
    """Return the mean absolute error in HU."""
    return HU_RANGE * jnp.mean(jnp.abs(a - b))


def lpips_slices(a: Volume, b: Volume, lpips: Perceptual) -> Float[Array, "3"]:
    """Return the mean LPIPS of the slices along D, H and W, (3,).

    Args:
      a: volume, (D, H, W), [0, 1].
      b: volume of the same shape.
      lpips: distance of two sets of images, (n, h, w, 1) each, to (n,).

    Raises:
      UserError: the slices are too small for the network of ``lpips``.
    """
    return jnp.stack([jnp.mean(lpips(*(jnp.moveaxis(v, i, 0)[..., None] for v in (a, b)))) for i in range(3)])


def lpips_sum(per_axis: Float[Accepted, "3"], shape: tuple[int, ...]) -> Array:
    """Return LPIPS as the paper's tables have it: summed over an axis's slices, then the mean over axes."""
    return jnp.mean(per_axis * jnp.asarray(shape))


def cosine(a: Volume, b: Volume) -> Array:
    """Return the cosine of the angle between two volumes taken as vectors; 0 where one is all air, 0 everywhere."""
    lengths = jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2))
    return jnp.sum(a * b) / jnp.where(lengths == 0, 1.0, lengths)


def _band_error(i: int, a: Volume, b: Volume) -> Array:
    return mae_hu_by_band(a, b)[i]


X2CT_SCALE = X2CT_PEAK / HU_RANGE

FIGURES: dict[str, Callable[[Volume, Volume], Array]] = {
    "psnr": psnr_volume,
    "psnr_slices": lambda a, b: jnp.mean(psnr_slices(a, b)),
    "psnr_x2ct": lambda a, b: psnr_volume(a, b, X2CT_SCALE),
    "psnr_slices_x2ct": lambda a, b: jnp.mean(psnr_slices(a, b, X2CT_SCALE)),
    "ssim": lambda a, b: jnp.mean(ssim_slices(a, b)),
    "ssim_3d": ssim_3d,
    "mae_hu": mae_hu,
    "mse_hu2": lambda a, b: HU_RANGE**2 * jnp.mean((a - b) ** 2),
    "mae_unit": lambda a, b: jnp.mean(jnp.abs(a - b)),
    "mse_unit": lambda a, b: jnp.mean((a - b) ** 2),
    "cosine": cosine,
    **{band.figure: partial(_band_error, i) for i, band in enumerate(BANDS)},
}
"""Metrics of (truth, result) by name, without LPIPS; ``metrics/protocols.py`` says which belong together."""


@partial(jax.jit, static_argnums=0)
def volume_figures(names: tuple[str, ...], truth: Volume, result: Volume) -> dict[str, Array]:
    """Compute the named ``FIGURES`` of one case.

    Args:
      names: keys of ``FIGURES``.
      truth: volume, (D, H, W), [0, 1].
      result: volume of the same shape.
    """
    return {name: FIGURES[name](truth, result) for name in names}


@jax.jit
def _fast_view(a: Image, b: Image) -> dict[str, Array]:
    return {"psnr": psnr(jnp.mean((a - b) ** 2)), "ssim": ssim_images(a[None], b[None])[0]}


def view_metrics(truth: Image, result: Image, lpips: Perceptual | None = None) -> dict[str, float]:
    """Return the metrics of one X-ray by name.

    Args:
      truth: image, (h, w), min-max normalised to [0, 1].
      result: image of the same shape, normalised likewise.
      lpips: distance of two sets of images, as in :func:`lpips_slices`; None leaves it out.
    """
    figures = _fast_view(truth, result)
    if lpips is not None:
        figures["lpips"] = lpips(truth[None, ..., None], result[None, ..., None])[0]
    return {name: float(value) for name, value in figures.items()}
