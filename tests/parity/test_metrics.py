"""X2CT-GAN's figures of volumes and of their slices."""

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.data.intensity import HU_RANGE
from dvg_jax.metrics import psnr_slices, ssim_slices, volume_metrics
from tests.parity.errors import elementwise
from tests.parity.golden import TABLES, load
from tests.paths import GOLDEN, needs_shared

FILE = "metrics.npz"


@needs_shared
def test_figures_of_volumes_and_slices(report):
    _, golden = load(GOLDEN, FILE)
    pairs = list(zip(*(jnp.asarray(golden[name], jnp.float32) for name in ("a", "b")), strict=True))
    cases = [volume_metrics(a, b) for a, b in pairs]
    mean = {name: np.mean([case[name] for case in cases]) for name in cases[0]}
    psnr, ssim = (np.mean([jax.jit(figure)(a, b) for a, b in pairs], axis=0) for figure in (psnr_slices, ssim_slices))
    ours = {
        "psnr3d": mean["psnr"],
        "MSE": np.mean([10 ** (-case["psnr"] / 10) for case in cases]),
        "MAE": mean["mae_hu"] / HU_RANGE,
        "psnr_d_h_w_avg": [*psnr, mean["psnr_slices"]],
        "ssim_d_h_w_avg": [*ssim, mean["ssim"]],
    }
    for name, figure in ours.items():
        report(file=FILE, name=name, error=elementwise(figure, golden[name]), tolerance=TABLES)
