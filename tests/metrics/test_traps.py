"""The numbers by which ``docs/metrics.md`` explains the traps: computed here, and found in its table.

Truth: the first test phantom at 32^3. Result: the mean of the first 16 training phantoms, the answer of one who has not
seen the film.
"""

from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from dvg_jax.data.sources import PhantomSource
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.tables import decimals
from dvg_jax.metrics.tissue import AIR_LIMIT

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
SIZE = 32


@pytest.fixture(scope="module")
def pair():
    train, test = PhantomSource(16, SIZE), PhantomSource(1, SIZE, split="test")
    mean = np.mean([train[i]["ct"][..., 0] for i in range(16)], axis=0)
    return test[0]["ct"][..., 0], mean.astype(np.float32)


@pytest.fixture(scope="module")
def figures(pair):
    return Measures(("hu", "x2ct")).volume(*pair)


def slice_ssim(a, b, data_range):
    along = [(np.moveaxis(a, i, 0), np.moveaxis(b, i, 0)) for i in range(3)]
    return np.mean([structural_similarity(x, y, data_range=data_range) for s in along for x, y in zip(*s, strict=True)])


def in_document(trap, right, wrong, digits):
    """The document's row of this trap has these two numbers."""
    (row,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {trap} ")]
    cells = [cell.strip() for cell in row.split("|")[2:4]]
    assert cells == [f"{right:.{digits}f}", f"{wrong:.{digits}f}"]


def test_peak_4095(figures):
    assert figures["psnr_x2ct"] - figures["psnr"] == pytest.approx(4.286, abs=1e-3)
    in_document("peak 4095", figures["psnr"], figures["psnr_x2ct"], decimals("psnr"))


def test_ssim_with_the_range_that_old_scikit_image_took_for_floats(pair, figures):
    wrong = slice_ssim(*pair, 2.0)
    assert wrong > figures["ssim"] + 0.04
    in_document("SSIM's data range", figures["ssim"], wrong, decimals("ssim"))


def test_ssim_in_3d_by_accident(pair, figures):
    """What asks for slices in scikit-image 0.19 (``multichannel``) is swallowed by later versions."""
    wrong = structural_similarity(*pair, data_range=1, multichannel=True)
    assert wrong == pytest.approx(figures["ssim_3d"], abs=1e-5)
    in_document("3D SSIM by accident", figures["ssim"], wrong, decimals("ssim"))


def test_rmse_without_a_root(figures):
    right, wrong = np.sqrt(figures["mse_unit"]), figures["mse_unit"]
    in_document("RMSE without its root", right, wrong, 4)


def test_psnr_of_slices_is_not_that_of_the_volume(figures):
    in_document("slice PSNR for volume PSNR", figures["psnr"], figures["psnr_slices"], decimals("psnr"))


def test_air_counts(pair, figures):
    body = pair[0] * 2500 - 1024 >= AIR_LIMIT
    inside = 2500 * np.abs(pair[1] - pair[0])[body].mean()
    assert (~body).mean() == pytest.approx(0.454, abs=0.005)
    in_document("air around the body", inside, figures["mae_hu"], 0)


def test_lpips_sum_grows_with_the_number_of_slices_and_range_matters(pair):
    unit = Measures(("hu",), "alex").volume(*pair)["lpips"]
    in_document("LPIPS fed [0, 1]", Measures(("hu",), "alex", "signed").volume(*pair)["lpips"], unit, 3)
    in_document("LPIPS as a sum", unit, SIZE * unit, 3)
