"""The lung preset centres on the lungs, whatever gas lies below the diaphragm and however thick the slices are."""

import numpy as np
import pytest

from dvg_jax.data.scans.cube import prepare_scan
from dvg_jax.data.scans.read import Scan, load_scan
from tests.cases import trunk
from tests.paths import SHARED, needs_shared

NEAR_MM = 10.0

READ_OFF = {  # base and apex, mm from the first slice, as seen in pictures of the air in each scan
    "ct/lidc_idri_0001": (57, 313),
    "ct/lidc_idri_0002": (27, 299),
    "ct/lidc_idri_0314": (17, 249),
    "ct/lungdx_a0002_8mm": (0, 229),
    "ct/nsclc_lung1_001": (74, 328),
    "ct/nsclc_lung1_002": (38, 290),
    "ct/ricord1a_000082": (38, 297),
    "ct/tcga_de_a4ma": (30, 287),
    "ct128/lung/lidc_idri_0005": (70, 307),
    "ct128/x2ct/lidc_idri_0007": (12, 305),
    "ct128/x2ct/lidc_idri_0008": (74, 303),
}


def _middle_mm(scan: Scan) -> float:
    prepared = prepare_scan(scan, 8, preset="lung")
    return (prepared.middle[0] + 0.5) * scan.spacing_mm[0]


@pytest.mark.parametrize(
    ("hu", "step_mm"),
    [
        (trunk.trunk(), 5.0),
        (trunk.trunk(opaque_above=260.0), 5.0),
        # In thick slices the wall between stomach and lung is lost, and the two are one piece of air.
        (trunk.thick(trunk.trunk(stomach_wall_mm=0.0), 2), 10.0),
    ],
    ids=["bowel and stomach", "opaque lung", "thick slices"],
)
def test_bowel_and_stomach_do_not_draw_the_cube_to_the_feet(hu, step_mm):
    assert _middle_mm(trunk.scan(hu, step_mm)) == pytest.approx(trunk.MIDDLE, abs=NEAR_MM)


def test_stomach_that_a_lung_runs_into_is_cut_off():
    hu = trunk.trunk(stomach_wall_mm=12.0)
    hu[33:46, 16:24, 42:52] = np.minimum(hu[33:46, 16:24, 42:52], trunk.GAS)  # 50 mm wide, from the stomach to the lung
    assert _middle_mm(trunk.scan(hu)) == pytest.approx(trunk.MIDDLE, abs=NEAR_MM)


def test_an_abdomen_with_the_bases_of_lungs_is_centred_on_those():
    bases = trunk.slices(trunk.trunk(), 0, 260)
    assert _middle_mm(trunk.scan(bases)) == pytest.approx((trunk.BASE + 260) / 2, abs=NEAR_MM)


@needs_shared
@pytest.mark.parametrize("name", READ_OFF)
def test_real_scans_are_centred_on_the_lungs(name):
    scan = trunk.every_other(load_scan(SHARED / f"{name}.nii.gz"))
    assert _middle_mm(scan) == pytest.approx(sum(READ_OFF[name]) / 2, abs=NEAR_MM)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", READ_OFF)
def test_real_scans_are_centred_in_all_their_voxels(name):
    assert _middle_mm(load_scan(SHARED / f"{name}.nii.gz")) == pytest.approx(sum(READ_OFF[name]) / 2, abs=NEAR_MM)


@needs_shared
def test_a_real_abdomen_with_the_bases_of_lungs_is_centred_on_those():
    scan = trunk.every_other(load_scan(SHARED / "ct" / "nsclc_lung1_001.nii.gz"))
    bases = Scan(scan.hu[:33], scan.spacing_mm, scan.affine, scan.orientation)
    assert _middle_mm(bases) == pytest.approx((74 + 130) / 2, abs=NEAR_MM)
