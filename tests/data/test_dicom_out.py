"""A DICOM series out: read back it is the NIfTI, in HU and in place, and its tags say what it is."""

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from dvg_jax.files.atomic import new_folder
from dvg_jax.reconstruct.dicom import NOTICE, save_series

SETTINGS = {"seed": 3, "steps": 10, "model": "runs/demo"}
SHAPE = (12, 10, 9)


def tilted(angle: float = 0.1) -> np.ndarray:
    """An affine with three spacings, an offset that no decimal holds exactly, and a turn about two axes."""
    c, s = np.cos(angle), np.sin(angle)
    about_x = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    about_z = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return about_z @ about_x @ frame_affine(SHAPE, (3.1, 2.7, 2.3), (12, -100 / 3, 200))


@pytest.fixture
def hu():
    return np.random.default_rng(0).uniform(-1024, 1476, SHAPE).astype(np.float32)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.dcm"
    film = pydicom.Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    film.StudyInstanceUID, film.SeriesInstanceUID = generate_uid(), generate_uid()
    film.SpecificCharacterSet = "ISO_IR 100"
    film.PatientName, film.PatientID, film.StudyDate = "Müller^Änne", "P7", "20200102"
    film.set_pixel_data(np.arange(400, dtype=np.uint16).reshape(20, 20), "MONOCHROME2", 12, generate_instance_uid=False)
    film.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(b"any bytes do: only their digest is used")
    return path


@pytest.mark.parametrize("affine", [frame_affine(SHAPE, (3.1, 2.7, 2.3)), tilted()], ids=["straight", "tilted"])
def test_simpleitk_reads_the_series_as_the_nifti(tmp_path, hu, picture, affine):
    save_series(tmp_path / "series", hu, affine, [picture], SETTINGS)
    save_nifti(tmp_path / "ct.nii.gz", hu, affine)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    series, nifti = reader.Execute(), SimpleITK.ReadImage(str(tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(series), SimpleITK.GetArrayFromImage(nifti))
    # NIfTI holds its affine in float32: a position of 300 mm is good to 3e-5 mm.
    for corner in np.ndindex(2, 2, 2):
        index = [int(i) for i in np.array(corner) * (np.array(series.GetSize()) - 1)]
        places = (image.TransformIndexToPhysicalPoint(index) for image in (series, nifti))
        np.testing.assert_allclose(*places, atol=1e-4)
    np.testing.assert_allclose(load_scan(tmp_path / "series").affine, affine, atol=1e-6)


def test_tags_say_what_it_is(tmp_path, hu, picture):
    save_series(tmp_path / "series", hu, tilted(), [picture], SETTINGS)
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "series").iterdir())]
    assert len(slices) == SHAPE[0]
    assert len({one.SOPInstanceUID for one in slices}) == SHAPE[0]
    for one in slices:
        assert one.SOPClassUID == pydicom.uid.CTImageStorage
        assert list(one.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert one.SeriesDescription == NOTICE
        assert NOTICE in one.ImageComments
        assert '"seed": 3' in one.ImageComments
        assert one.ContentQualification == "RESEARCH"
        assert one.BurnedInAnnotation == "NO"
        assert "film.png" in one.DerivationDescription
        assert one.PatientID == "SYNTHETIC"
        assert "SourceImageSequence" not in one
        assert len(one.WindowCenter) == len(one.WindowCenterWidthExplanation) == 3


def test_joins_the_study_of_a_dicom_film(tmp_path, hu, film, picture):
    save_series(tmp_path / "series", hu, tilted(), [film, picture], SETTINGS)
    one, source = pydicom.dcmread(tmp_path / "series" / "0001.dcm"), pydicom.dcmread(film)
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate"):
        assert one[name].value == source[name].value
    assert one.SeriesInstanceUID != source.SeriesInstanceUID
    (reference,) = one.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID


def test_equal_runs_write_equal_files_and_another_seed_another_series(tmp_path, hu, picture):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        save_series(tmp_path / name, hu, tilted(), [picture], SETTINGS | {"seed": seed})
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "abc"}
    assert files["a"] == files["b"]
    first, other = (pydicom.dcmread(tmp_path / name / "0001.dcm") for name in "ac")
    assert first.SeriesInstanceUID != other.SeriesInstanceUID
    assert first.StudyInstanceUID == other.StudyInstanceUID
    assert first.FrameOfReferenceUID == other.FrameOfReferenceUID


def test_a_folder_that_holds_something_is_refused(tmp_path, hu, picture):
    folder = tmp_path / "series"
    folder.mkdir()
    save_series(folder, hu, tilted(), [picture], SETTINGS)
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="is there already; allowed: a new or an empty folder"):
        save_series(folder, hu, tilted(), [picture], SETTINGS)
    assert sorted(folder.iterdir()) == before


def test_films_of_two_patients_are_refused(tmp_path, hu, film):
    other = pydicom.dcmread(film)
    other.PatientID = "P8"
    other.save_as(tmp_path / "other.dcm")
    with pytest.raises(UserError, match="'P7', 'P8'; allowed for DICOM: one patient"):
        save_series(tmp_path / "series", hu, tilted(), [film, tmp_path / "other.dcm"], SETTINGS)
    assert not (tmp_path / "series").exists()


def test_sheared_axes_are_refused(tmp_path, hu, picture):
    affine = tilted()
    affine[:3, 0] += 0.1 * affine[:3, 1]
    with pytest.raises(UserError, match="sheared"):
        save_series(tmp_path / "series", hu, affine, [picture], SETTINGS)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "series") as part:
            (part / "0001.dcm").write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        interrupted()
    assert not list(tmp_path.iterdir())
