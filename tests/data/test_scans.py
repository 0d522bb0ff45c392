import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from dvg_jax.data.scans.index import find_scans
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.data import made
from tests.paths import SHARED, needs_shared


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", "dicom"])
def test_every_format_gives_the_same_scan(tmp_path, suffix):
    hu, affine = made.chest_on_couch(), made.affine()
    path = tmp_path / f"scan{suffix}"
    if suffix == "dicom":
        made.write_series(path, hu, affine)
    elif suffix.startswith(".nii"):
        made.write(path, hu, affine)
    else:
        SimpleITK.WriteImage(made.itk_image(hu, affine), str(path))
    scan = load_scan(path)
    np.testing.assert_array_equal(scan.hu, hu)
    assert scan.hu.dtype == np.float32
    assert scan.hu.flags.c_contiguous
    np.testing.assert_allclose(scan.affine, affine, atol=1e-4)  # NIfTI stores float32, DICOM 6 decimals
    assert scan.spacing_mm == pytest.approx(made.SPACING, abs=1e-5)
    assert scan.patient == ("P-7" if suffix == "dicom" else None)


def test_dicom_with_a_missing_slice_is_refused(tmp_path):
    folder = made.write_series(tmp_path / "series", made.chest_on_couch(), made.affine(), skip=(20,))
    with pytest.raises(UserError, match=r"slice 20 is followed by a step of 10\.00 mm, usual step 5\.00"):
        load_scan(folder)


def test_two_series_in_one_folder_are_refused_and_a_localiser_is_not(tmp_path):
    folder = made.write_series(tmp_path / "series", made.chest_on_couch(), made.affine())
    (localiser,) = made.write_series(tmp_path / "other", made.chest_on_couch()[:1], made.affine()).iterdir()
    localiser.rename(folder / "localiser.dcm")
    assert load_scan(folder).hu.shape == made.SHAPE
    for file in made.write_series(tmp_path / "again", made.chest_on_couch(), made.affine()).iterdir():
        file.rename(folder / f"again-{file.name}")
    with pytest.raises(UserError, match="2 DICOM series"):
        load_scan(folder)


def _bad(tmp_path, kind):
    good, affine = made.chest_on_couch(), made.affine()
    path = tmp_path / f"{kind}.nii.gz"
    if kind == "flat":
        nib.save(nib.Nifti1Image(good[0], affine), path)
    elif kind == "four":
        nib.save(nib.Nifti1Image(np.stack([good, good], -1), affine), path)
    elif kind == "thin":
        nib.save(nib.Nifti1Image(good[:5], affine), path)
    elif kind in ("nan", "inf"):
        good[3, 4, 5] = float(kind)
        nib.save(nib.Nifti1Image(good, affine), path)
    elif kind == "text":
        path.write_text("not an image")
    elif kind == "cut":
        nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(20, 20, 20)), affine), path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "lost":
        image = nib.Nifti1Image(good, affine)
        image.set_sform(affine, 0)
        image.set_qform(affine, 0)
        nib.save(image, path)
    elif kind == "flat_itk":
        path = tmp_path / "flat.mha"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(good[0]), str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "suffix":
        path = tmp_path / "suffix.txt"
        path.write_text("x")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("flat", "allowed: three axes"),
        ("four", "allowed: three axes"),
        ("thin", "at least 8"),
        ("nan", "NaN"),
        ("inf", "infinite"),
        ("text", "cannot be read"),
        ("cut", "cannot be read"),
        ("lost", "orientation"),
        ("folder", "0 DICOM series"),
        ("suffix", "not a CT file"),
        ("flat_itk", "allowed: 3-D"),
    ],
)
def test_bad_files_get_one_line_that_names_them(tmp_path, kind, says):
    path = _bad(tmp_path, kind)
    with pytest.raises(UserError, match=says) as error:
        load_scan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_find_scans_lists_images_and_series_folders_only(tmp_path):
    hu, affine = made.chest_on_couch(), made.affine()
    made.write(tmp_path / "b" / "one.nii.gz", hu, affine)
    SimpleITK.WriteImage(made.itk_image(hu, affine), str(tmp_path / "two.mhd"))
    made.write_series(tmp_path / "a" / "study" / "series", hu[:9], affine)
    unnamed = made.write_series(tmp_path / "c", hu[:9], affine)
    for number, file in enumerate(unnamed.iterdir()):
        file.rename(unnamed / f"IM{number:04d}")
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".partial-1-x.nii.gz").write_text("half")
    found = [item.source for item in find_scans(tmp_path) if not item.reason]
    assert found == ["a/study/series", "b/one.nii.gz", "c", "two.mhd"]


@needs_shared
def test_dicom_series_and_its_nifti_copy_show_the_same_place():
    series = next(item for item in find_scans(SHARED / "dicom" / "ct") if "LIDC" in item.source).load()
    copy = load_scan(SHARED / "ct" / "lidc_idri_0001.nii.gz")
    assert series.patient == "LIDC-IDRI-0001"
    assert series.hu.shape == (133, 512, 512)
    # The same world points, well inside: the copy is smoothed, so only the mean difference is bounded.
    index = np.random.default_rng(0).integers([20, 40, 40], [140, 140, 140], (500, 3))
    world = nib.affines.apply_affine(copy.affine, index)
    there = np.rint(nib.affines.apply_affine(np.linalg.inv(series.affine), world)).astype(int)
    difference = copy.hu[tuple(index.T)] - series.hu[tuple(there.T)]
    assert np.median(abs(difference)) < 40
    assert np.corrcoef(copy.hu[tuple(index.T)], series.hu[tuple(there.T)])[0, 1] > 0.97
