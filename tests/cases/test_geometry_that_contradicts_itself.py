"""A stated position is converted, noted or refused, but never guessed, in any format."""

import nibabel as nib
import numpy as np
import pytest

from dvg_jax.data.scans.body import body_mask
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.cases.chest import AFFINE, HU, meta_image, nifti, nrrd

MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE


def _quaternion(affine):
    header = nib.Nifti1Header()
    header.set_qform(affine, 1)
    return {name: header[name] for name in ("pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x")}


@pytest.mark.parametrize(("code", "mm"), [(1, 1000.0), (3, 0.001)])
def test_lengths_in_metres_and_microns_become_mm(tmp_path, code, mm):
    scan = load_scan(nifti(tmp_path / "a.nii", affine=np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ AFFINE, xyzt_units=code))
    np.testing.assert_allclose(scan.affine, AFFINE, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(scan.hu, HU)
    assert "converted to mm" in scan.notes[0]


@pytest.mark.parametrize(
    ("write", "unit"),
    [
        (lambda p: meta_image(p, DistanceUnits="um", ElementSpacing="8000 8000 5000"), "um"),
        (lambda p: meta_image(p, DistanceUnits="cm", ElementSpacing="0.8 0.8 0.5"), "cm"),
        (lambda p: nrrd(p, space_units='"m" "m" "m"', space_directions="(.008,0,0) (0,.008,0) (0,0,.005)"), "m"),
        (lambda p: nrrd(p, space_units='"mm" "mm" "mm"'), ""),
    ],
)
def test_other_formats_state_units_too(tmp_path, write, unit):
    scan = load_scan(write(tmp_path / "a"))
    assert scan.spacing_mm == pytest.approx((5, 8, 8), rel=1e-5)
    assert scan.notes == ((f"lengths in {unit} were converted to mm",) if unit else ())


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: nifti(p, **_quaternion(MIRRORED)), "sform and qform contradict each other: axes point .* and "),
        (lambda p: nifti(p, pixdim=[1, 1, 1, 1, 0, 0, 0, 0], qform_code=0), "voxel sizes contradict each other"),
        (lambda p: nifti(p, xyzt_units=5), "in unit 5; allowed"),
        (lambda p: nifti(p, sform_code=0, quatern_b=0.9, quatern_c=0.9), "quaternion has length"),
        (lambda p: nifti(p, sform_code=0, qform_code=0), "states no orientation"),
        (lambda p: nrrd(p, omit=("space",)), r"states no orientation \(no space;"),
        (lambda p: nrrd(p, omit=("space",), space_dimension="3"), r"states no orientation \(no space;"),
        (lambda p: nrrd(p, omit=("space", "space_directions", "space_origin"), spacings="8 8 5"), "no orientation"),
        (lambda p: nrrd(p, space="scanner-xyz"), r"states no orientation \(space is 'scanner-xyz'"),
        (lambda p: nrrd(p, space="3D-right-handed"), r"states no orientation \(space is '3D-right-handed'"),
        (lambda p: nrrd(p, space_units='"furlong" "furlong" "furlong"'), "'furlong'; allowed: mm"),
        (lambda p: meta_image(p, omit=("TransformMatrix",)), r"states no orientation \(no TransformMatrix"),
        (
            lambda p: meta_image(p, omit=("TransformMatrix",), AnatomicalOrientation="RAS"),
            "AnatomicalOrientation = RAS alone is read both ways",
        ),
        (lambda p: meta_image(p, omit=("ElementSpacing",)), "states no voxel sizes"),
        (lambda p: meta_image(p, TransformMatrix="1 0 0 1e308 1 0 0 0 1"), "transformmatrix is"),
        (lambda p: nifti(p, affine=AFFINE @ np.diag([1000, 1000, 1000, 1])), "voxel spacing 5000"),
    ],
)
def test_contradictions_and_silence_are_refused(tmp_path, write, says):
    with pytest.raises(UserError, match=says) as error:
        load_scan(write(tmp_path / "a.file"))
    assert "\n" not in str(error.value)


def test_nrrd_in_each_stated_space_is_the_same_scan(tmp_path):
    lps = load_scan(nrrd(tmp_path / "lps.nrrd"))
    turned = {"right-anterior-superior": "(-8,0,0) (0,-8,0) (0,0,5)", "LAS": "(8,0,0) (0,-8,0) (0,0,5)"}
    for space, directions in turned.items():
        scan = load_scan(nrrd(tmp_path / "other.nrrd", space=space, space_directions=directions))
        np.testing.assert_array_equal(scan.hu, lps.hu)
        np.testing.assert_allclose(scan.affine, lps.affine)


def test_a_claim_that_the_matrix_contradicts_is_said(tmp_path):
    assert load_scan(meta_image(tmp_path / "itk.mha", AnatomicalOrientation="RAI")).notes == ()
    (note,) = load_scan(meta_image(tmp_path / "luna.mha", AnatomicalOrientation="LAS")).notes
    assert note.startswith("AnatomicalOrientation = LAS is not what TransformMatrix says")


def test_two_places_of_one_scan_are_said(tmp_path):
    (note,) = load_scan(nifti(tmp_path / "a.nii", qoffset_x=AFFINE[0, 3] + 30)).notes
    assert note == "sform and qform place the scan up to 30 mm apart; the first is used"


@pytest.mark.parametrize("mm", [0.03, 0.001])
def test_tiny_voxels_are_a_row_and_the_others_go_on(tmp_path, mm):
    nifti(tmp_path / "in" / "p1.nii.gz", affine=AFFINE @ np.diag([mm / 5, mm / 8, mm / 8, 1]))
    nifti(tmp_path / "in" / "p2.nii.gz")
    rows, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert [row.status for row in rows] == ["refused", "ok"]
    assert f"voxel spacing {mm:g} x {mm:g} x {mm:g} mm" in rows[0].reason


def test_a_body_is_looked_for_among_voxels_of_any_size():
    for mm in (0.001, 0.03, 100.0):
        assert body_mask(HU, (mm, mm, mm)).shape == HU.shape
