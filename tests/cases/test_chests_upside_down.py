"""A chest whose head and feet are exchanged gives a remark, and no other chest does."""

import numpy as np
import pytest

from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.scans import upright
from dvg_jax.data.scans.cube import prepare_scan
from dvg_jax.data.scans.read import Scan, load_scan
from dvg_jax.data.scans.remarks import UPSIDE_DOWN
from dvg_jax.data.sources import PhantomSource
from tests.cases import trunk
from tests.data import made
from tests.paths import SHARED, needs_shared

REAL = [*sorted((SHARED / "ct").glob("*.nii.gz")), *sorted((SHARED / "ct128" / "x2ct").glob("*.nii.gz"))]


@pytest.fixture(scope="module")
def phantoms():
    """Draw phantoms at 20 mm, the size for which other tests compile them; each voxel stands for 8 of 10 mm."""
    source = PhantomSource(8, 16, seed=7)
    coarse = (np.asarray(intensity_to_hu(source[number]["ct"][..., 0])) for number in range(8))
    return [np.kron(hu, np.ones((2, 2, 2), np.float32)) for hu in coarse]


def _says_so(hu, spacing, affine, turned=False):
    hu = np.ascontiguousarray(np.flip(hu, turned)) if turned else hu
    return UPSIDE_DOWN in prepare_scan(Scan(hu, spacing, affine, ""), 8).checks


def test_phantoms(phantoms):
    for hu in phantoms:
        place = (10.0,) * 3, frame_affine(hu.shape, 10.0)
        assert not _says_so(hu, *place)
        assert _says_so(hu, *place, turned=(0,))


def test_a_trunk_with_bowel_gas_and_one_turned_by_180_degrees():
    scan = trunk.scan(trunk.trunk())
    assert not _says_so(scan.hu, scan.spacing_mm, scan.affine)
    assert not _says_so(scan.hu, scan.spacing_mm, scan.affine, turned=(2,))  # mirrored: no remark on sides
    assert _says_so(scan.hu, scan.spacing_mm, scan.affine, turned=(0, 2))


def test_what_has_no_two_ends_is_not_judged():
    hu = made.chest_on_couch()
    assert not _says_so(hu, made.SPACING, made.affine())
    assert not _says_so(hu, made.SPACING, made.affine(), turned=(0,))


def test_the_stored_mean_is_that_of_the_phantom():
    """If this fails after a change of the phantom, run python -m dvg_jax.data.scans.upright."""
    assert np.abs(upright.draw_mean().astype(int) - np.rint(255 * upright.stored_mean()).astype(int)).max() <= 1


@needs_shared
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name.split(".")[0])
def test_real_scans(path):
    scan = trunk.every_other(load_scan(path))
    assert not _says_so(scan.hu, scan.spacing_mm, scan.affine)
    assert _says_so(scan.hu, scan.spacing_mm, scan.affine, turned=(0,))
