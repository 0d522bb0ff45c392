"""Measure how far a reconstruction is from the truth."""

from dvg_jax.metrics.volume import (
    lpips_slices,
    mae_hu,
    psnr_slices,
    psnr_volume,
    ssim_3d,
    ssim_slices,
    view_metrics,
)

__all__ = [
    "lpips_slices",
    "mae_hu",
    "psnr_slices",
    "psnr_volume",
    "ssim_3d",
    "ssim_slices",
    "view_metrics",
]
