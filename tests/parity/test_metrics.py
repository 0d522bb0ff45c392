"""X2CT-GAN's figures of volumes and of their slices, and what a newer scikit-image makes of its SSIM."""

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.metrics import psnr_slices, ssim_slices
from dvg_jax.metrics.protocols import Measures
from tests.parity.errors import elementwise
from tests.parity.golden import TABLES, load
from tests.paths import GOLDEN, needs_shared

FILE = "metrics.npz"


@needs_shared
def test_figures_of_volumes_and_slices(report):
    _, golden = load(GOLDEN, FILE)
    pairs = list(zip(*(jnp.asarray(golden[name], jnp.float32) for name in ("a", "b")), strict=True))
    cases = [Measures(("hu", "x2ct")).volume(a, b) for a, b in pairs]
    mean = {name: np.mean([case[name] for case in cases]) for name in cases[0]}
    psnr, ssim = (np.mean([jax.jit(figure)(a, b) for a, b in pairs], axis=0) for figure in (psnr_slices, ssim_slices))
    ours = {
        "psnr3d": mean["psnr"],
        "MSE": mean["mse_unit"],
        "RMSE_size_average_true": mean["mse_unit"],  # the published function takes no root
        "RMSE_per_sample": [np.sqrt(case["mse_hu2"]) / HU_RANGE for case in cases],
        "MAE": mean["mae_unit"],
        "cosine": mean["cosine"],
        "psnr_d_h_w_avg": [*psnr, mean["psnr_slices"]],
        "ssim_d_h_w_avg": [*ssim, mean["ssim"]],
        "ssim3d_7x7x7_what_new_skimage_would_return": mean["ssim_3d"],
    }
    for name, figure in ours.items():
        report(file=FILE, name=name, error=elementwise(figure, golden[name]), tolerance=TABLES)
