"""Distances between two CTs in [0, 1], where 1 is the window of 2500 HU, and between two X-rays.

Slice-wise figures are means over the slices along each of D, H and W, and then over the three axes, as X2CT-GAN's
published protocol has them. ``docs/metrics.md`` states each.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.data.intensity import HU_RANGE
from dvg_jax.errors import UserError
from dvg_jax.shapes import Image, Volume

WINDOW = 7
K1, K2 = 0.01, 0.03
BEST_PSNR = 100.0
"""What an exact match gets, in dB."""

X2CT_PEAK = 4095.0

Perceptual = Callable[[Float[Array, "n h w 1"], Float[Array, "n h w 1"]], Float[Array, "n"]]


def psnr(mse: Array, peak: float | Array = 1.0) -> Array:
    """Peak signal-to-noise ratio in dB; 100 where there is no error."""
    return jnp.where(mse > 0, 10 * jnp.log10(peak**2 / jnp.where(mse > 0, mse, 1.0)), BEST_PSNR)


def psnr_volume(a: Volume, b: Volume, peak: float | Array = 1.0) -> Array:
    """PSNR of the whole volume, dB."""
    return psnr(jnp.mean((a - b) ** 2), peak)


def psnr_slices(a: Volume, b: Volume, peak: float = 1.0) -> Float[Array, "3"]:
    """Mean PSNR of the slices along D, H and W, dB."""
    error = (a - b) ** 2
    return jnp.stack([jnp.mean(psnr(error.mean(axis=axes), peak)) for axes in ((1, 2), (0, 2), (0, 1))])


def ssim_images(a: Float[Array, "n h w"], b: Float[Array, "n h w"]) -> Float[Array, "n"]:
    """Structural similarity (Wang et al. 2004): uniform 7 x 7 window, sample covariance, data range 1, borders cut."""
    if min(a.shape[1:]) < WINDOW:
        raise UserError(f"slices are {a.shape[1:]}; allowed for SSIM: sides of {WINDOW} or more")

    def mean(x: Array) -> Array:
        for axis in (1, 2):
            window = tuple(WINDOW if i == axis else 1 for i in range(3))
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1), "VALID") / WINDOW
        return x

    mean_a, mean_b = mean(a), mean(b)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_a, var_b = sample * (mean(a * a) - mean_a**2), sample * (mean(b * b) - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = K1**2, K2**2
    similar = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return jnp.mean(similar / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)), axis=(1, 2))


def ssim_slices(a: Volume, b: Volume) -> Float[Array, "3"]:
    """Mean SSIM of the slices along D, H and W."""
    return jnp.stack([jnp.mean(ssim_images(jnp.moveaxis(a, i, 0), jnp.moveaxis(b, i, 0))) for i in range(3)])


def mae_hu(a: Volume, b: Volume) -> Array:
    """Mean absolute error in HU."""
    return HU_RANGE * jnp.mean(jnp.abs(a - b))


def lpips_slices(a: Volume, b: Volume, lpips: Perceptual) -> Float[Array, "3"]:
    """Mean LPIPS of the slices along D, H and W."""
    return jnp.stack([jnp.mean(lpips(*(jnp.moveaxis(v, i, 0)[..., None] for v in (a, b)))) for i in range(3)])


@jax.jit
def _fast(a: Volume, b: Volume) -> dict[str, Array]:
    return {
        "psnr": psnr_volume(a, b),
        "psnr_slices": jnp.mean(psnr_slices(a, b)),
        "psnr_x2ct": psnr_volume(a, b, X2CT_PEAK / HU_RANGE),
        "ssim": jnp.mean(ssim_slices(a, b)),
        "mae_hu": mae_hu(a, b),
    }


def volume_metrics(truth: Volume, result: Volume, lpips: Perceptual | None = None) -> dict[str, float]:
    """Every figure of one case, by name; ``lpips`` is the mean per slice, ``lpips_sum`` the published sum."""
    figures = _fast(truth, result)
    if lpips is not None:
        per_axis = lpips_slices(truth, result, lpips)
        figures["lpips"] = jnp.mean(per_axis)
        figures["lpips_sum"] = jnp.mean(per_axis * jnp.asarray(truth.shape))
    return {name: float(value) for name, value in figures.items()}


@jax.jit
def _fast_view(a: Image, b: Image) -> dict[str, Array]:
    return {"psnr": psnr(jnp.mean((a - b) ** 2)), "ssim": ssim_images(a[None], b[None])[0]}


def view_metrics(truth: Image, result: Image, lpips: Perceptual | None = None) -> dict[str, float]:
    """Figures of one X-ray; both min-max normalised to [0, 1] already, peak 1."""
    figures = _fast_view(truth, result)
    if lpips is not None:
        figures["lpips"] = lpips(truth[None, ..., None], result[None, ..., None])[0]
    return {name: float(value) for name, value in figures.items()}
