import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dvg_jax.data.scans import find_scans, load_scan
from dvg_jax.errors import UserError
from tests.data import made
from tests.paths import SHARED, needs_shared


def _itk_image(hu, affine):
    """An image in ITK's convention, LPS and (x, y, z) indices, of an array in the frame."""
    image = SimpleITK.GetImageFromArray(hu.astype(np.int16))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine[:, [2, 1, 0, 3]]
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(steps.tolist())
    image.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _write_series(folder, hu, affine, skip=(), patient="P-7"):
    folder.mkdir(parents=True, exist_ok=True)
    image = _itk_image(hu, affine)
    series, frame = generate_uid(), generate_uid()
    for d in range(hu.shape[0]):
        if d in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        name = folder / f"slice{(d * 7) % 101:03d}.dcm"  # names out of order: positions must decide
        item = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.SeriesInstanceUID, item.FrameOfReferenceUID, item.StudyInstanceUID = series, frame, frame
        item.Modality, item.PatientID, item.InstanceNumber = "CT", patient, d + 1
        item.ImagePositionPatient = [f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, d))]
        direction = np.reshape(image.GetDirection(), (3, 3))
        item.ImageOrientationPatient = [*direction[:, 0], *direction[:, 1]]
        item.PixelSpacing = [made.SPACING[1], made.SPACING[2]]
        item.SliceThickness = made.SPACING[0]
        item.Rows, item.Columns = hu.shape[1:]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated = item.BitsStored = 16
        item.HighBit, item.PixelRepresentation = 15, 0
        item.RescaleIntercept, item.RescaleSlope = -1024, 1
        item.PixelData = (hu[d] + 1024).astype(np.uint16).tobytes()
        item.save_as(name, enforce_file_format=True)
    return folder


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", "dicom"])
def test_every_format_gives_the_same_scan(tmp_path, suffix):
    hu, affine = made.chest_on_couch(), made.affine()
    path = tmp_path / f"scan{suffix}"
    if suffix == "dicom":
        _write_series(path, hu, affine)
    elif suffix.startswith(".nii"):
        made.write(path, hu, affine)
    else:
        SimpleITK.WriteImage(_itk_image(hu, affine), str(path))
    scan = load_scan(path)
    np.testing.assert_array_equal(scan.hu, hu)
    assert scan.hu.dtype == np.float32
    assert scan.hu.flags.c_contiguous
    np.testing.assert_allclose(scan.affine, affine, atol=1e-4)  # NIfTI stores float32, DICOM 6 decimals
    assert scan.spacing_mm == pytest.approx(made.SPACING, abs=1e-5)
    assert scan.patient == ("P-7" if suffix == "dicom" else None)


def test_dicom_with_a_missing_slice_is_refused(tmp_path):
    folder = _write_series(tmp_path / "series", made.chest_on_couch(), made.affine(), skip=(20,))
    with pytest.raises(UserError, match=r"slice 20 is followed by a step of 10\.00 mm, usual step 5\.00"):
        load_scan(folder)


def test_two_series_in_one_folder_are_refused_and_a_localiser_is_not(tmp_path):
    folder = _write_series(tmp_path / "series", made.chest_on_couch(), made.affine())
    (localiser,) = _write_series(tmp_path / "other", made.chest_on_couch()[:1], made.affine()).iterdir()
    localiser.rename(folder / "localiser.dcm")
    assert load_scan(folder).hu.shape == made.SHAPE
    for file in _write_series(tmp_path / "again", made.chest_on_couch(), made.affine()).iterdir():
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
        ("flat", "want three axes"),
        ("four", "want three axes"),
        ("thin", "at least 8"),
        ("nan", "NaN"),
        ("inf", "infinite"),
        ("text", "cannot be read"),
        ("cut", "cannot be read"),
        ("lost", "orientation"),
        ("folder", "0 DICOM series"),
        ("suffix", "not a CT file"),
        ("flat_itk", "want 3-D"),
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
    SimpleITK.WriteImage(_itk_image(hu, affine), str(tmp_path / "two.mhd"))
    _write_series(tmp_path / "a" / "study" / "series", hu[:9], affine)
    unnamed = _write_series(tmp_path / "c", hu[:9], affine)
    for number, file in enumerate(unnamed.iterdir()):
        file.rename(unnamed / f"IM{number:04d}")
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".partial-1-x.nii.gz").write_text("half")
    found = [path.relative_to(tmp_path).as_posix() for path in find_scans(tmp_path)]
    assert found == ["a/study/series", "b/one.nii.gz", "c", "two.mhd"]


@needs_shared
def test_dicom_series_and_its_nifti_copy_show_the_same_place():
    series = load_scan(next(path for path in find_scans(SHARED / "dicom" / "ct") if "LIDC" in str(path)))
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
