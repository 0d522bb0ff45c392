"""Films with absent or wrong tags still give a DICOM series; a slice is tried before the model runs."""

import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from dvg_jax.ct.frame import frame_affine
from dvg_jax.errors import UserError
from dvg_jax.reconstruct.dicom import check_series, save_series

SHAPE = (3, 4, 5)
AFFINE = frame_affine(SHAPE, 3.0)


@pytest.fixture
def film(tmp_path):
    """Write a film; keywords change its tags, None removes one."""

    def make(name="film.dcm", preamble=True, **tags):
        path, one = tmp_path / name, pydicom.Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID = generate_uid(), generate_uid()
        one.PatientName, one.PatientID, one.StudyDate, one.PatientSex = "Film^Test", "F-1", "20200102", "F"
        one.set_pixel_data(np.zeros((8, 8), np.uint16), "MONOCHROME2", 12, generate_instance_uid=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for tag, value in tags.items():
                if value is None:
                    delattr(one, tag)
                else:
                    setattr(one, tag, value)
            one.preamble = b"\0" * 128 if preamble else None
            one.save_as(path, enforce_file_format=False)
        return path

    return make


def series_of(folder, *films):
    """Write a series; return the notes, and a slice read back."""
    notes = check_series(folder, films, AFFINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # users must not see pydicom's warnings
        save_series(folder, np.zeros(SHAPE, np.float32), AFFINE, films, {"seed": 1})
    return notes, pydicom.dcmread(folder / "0001.dcm")


@pytest.mark.parametrize(
    "tags",
    [
        {"SOPClassUID": None},
        {"SOPInstanceUID": None},
        {"SOPClassUID": None, "SOPInstanceUID": None},
        {"SOPInstanceUID": "image 1"},
        {"SOPClassUID": ""},
    ],
)
def test_a_film_without_uids_is_not_referred_to(film, tmp_path, tags):
    path = film(**tags)
    notes, one = series_of(tmp_path / "series", path)
    assert "SourceImageSequence" not in one
    assert (one.PatientID, one.StudyInstanceUID) == ("F-1", pydicom.dcmread(path).StudyInstanceUID)
    assert notes == ("film.dcm: has no UIDs by which the DICOM series could refer to it",)


@pytest.mark.parametrize("uid", [None, "", "anonymous.study.0001", "1." * 40 + "1", "1.2.x"])
def test_a_study_that_has_no_uid_is_a_new_one(film, tmp_path, uid):
    notes, one = series_of(tmp_path / "series", film(StudyInstanceUID=uid))
    assert pydicom.uid.UID(one.StudyInstanceUID).is_valid
    assert one.PatientID == "F-1"
    (note,) = notes
    assert note.startswith("film.dcm: its StudyInstanceUID is ")
    assert "a new study" in note


def test_two_series_of_a_study_with_a_name_for_a_uid_stay_together(film, tmp_path):
    found = [
        series_of(tmp_path / str(i), film(f"{i}.dcm", StudyInstanceUID="anonymous.study.0001", StudyID=str(i)))[1]
        for i in range(2)
    ]
    assert found[0].StudyInstanceUID == found[1].StudyInstanceUID


def test_dates_and_codes_that_are_none_are_left_out_and_who_it_is_stays(film, tmp_path):
    path = film(PatientBirthDate="1950-01-31", StudyDate="unknown", StudyTime="12:30:00", PatientSex="female",
                PatientID="X" * 80, SpecificCharacterSet="ISO_IR 192", PatientName="王^小东")  # fmt: skip
    notes, one = series_of(tmp_path / "series", path)
    assert not notes
    assert (one.PatientBirthDate, one.StudyDate, one.StudyTime, one.PatientSex) == ("",) * 4
    assert (one.PatientID, str(one.PatientName)) == ("X" * 80, "王^小东")


def test_a_film_without_preamble_keeps_its_patient(film, tmp_path):
    _, one = series_of(tmp_path / "series", film(preamble=False))
    assert one.PatientID == "F-1"


def test_what_cannot_be_passed_on_is_refused_before_anything_is_written(film, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise AttributeError("no such element")

    monkeypatch.setattr(pydicom.Dataset, "save_as", broken)
    path = tmp_path / "film.png"
    path.write_bytes(b"any bytes")
    with pytest.raises(
        UserError, match=r"what the films state cannot be passed on \(no such element\); allowed: no --dicom"
    ):
        check_series(tmp_path / "series", [path], AFFINE)
