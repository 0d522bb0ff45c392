"""Volumes that do not overlay are refused with the digits in which they differ."""

import re

import numpy as np
import pytest

from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.metrics import compare

HU = np.linspace(-1000, 500, 16**3).reshape(16, 16, 16)
AFFINE = frame_affine(HU.shape, 2.5, (0.0, -120.0, 300.0))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((0, 3, 0.04), id="corner, under a tenth"),
        pytest.param((2, 3, 0.02), id="corner, two hundredths"),
        pytest.param((1, 3, 5.0), id="corner, far"),
        pytest.param((2, 0, 0.005), id="spacing"),  # the affine's numbers differ by less than the tolerance
        pytest.param((0, 0, 0.005), id="tilt"),
    ],
)
def test_the_difference_shows(fails, tmp_path, change):
    row, column, by = change
    moved = AFFINE.copy()
    moved[row, column] += by
    save_nifti(tmp_path / "truth.nii.gz", HU, AFFINE)
    save_nifti(tmp_path / "result.nii.gz", HU, moved)
    said = fails(compare.main, f"--truth={tmp_path / 'truth.nii.gz'}", f"--result={tmp_path / 'result.nii.gz'}")
    places = re.findall(r"16x16x16 voxels, .*? the last at \(.*?\) mm", said)
    assert len(places) == 2
    assert places[0] != places[1]
    assert "mm apart" in said.rsplit(":", 1)[1]


def test_a_result_that_is_the_truth_is_no_result(fails, tmp_path):
    save_nifti(tmp_path / "truth.nii.gz", HU, AFFINE)
    (tmp_path / "result.nii.gz").symlink_to("truth.nii.gz")
    for result in ("truth.nii.gz", "result.nii.gz"):
        said = fails(compare.main, f"--truth={tmp_path / 'truth.nii.gz'}", f"--result={tmp_path / result}")
        assert "--truth and --result are both" in said
