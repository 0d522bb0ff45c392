"""DICOM attributes that are damaged or made up, and pixels that unpack to more than they may: one line each."""

import tracemalloc

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from dvg_jax.data.films.read import read_film
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.index import find_scans
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from dvg_jax.files import dicom
from dvg_jax.reconstruct.study import read_tags
from tests.cases import made_dicom
from tests.data import made
from tests.paths import SHARED

HU, AFFINE = made.chest_on_couch()[:12, ::4, ::4], made.affine() @ np.diag([1, 4, 4, 1])
GREY = (made_dicom.brightness() * 4095).astype(np.uint16)


def _film(path, syntax=pydicom.uid.ExplicitVRLittleEndian, **tags):
    film = made_dicom.dataset(GREY, syntax=syntax)
    made_dicom.save(film, path)
    film = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for name, value in tags.items():
            setattr(film, name, value)
        film.save_as(path)
    return path


def _refused(path):
    with pytest.raises(UserError) as error:
        read_film(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ImagePositionPatient", ["0", "0", "1e30"]),
        ("ImagePositionPatient", ["nan", "0", "0"]),
        ("ImageOrientationPatient", ["2", "0", "0", "0", "1", "0"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0.5", "0.866", "0"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "inf", "0"]),
        ("PixelSpacing", ["1e200", "1e200"]),
        ("PixelSpacing", ["1e-200", "1"]),
        ("RescaleSlope", "1e300"),
        ("RescaleSlope", "nan"),
        ("RescaleIntercept", "-1e30"),
        ("BitsStored", 17),
        ("BitsAllocated", 24),
        ("HighBit", 40),
        ("PixelRepresentation", 2),
    ],
)
def test_a_series_with_a_value_out_of_range_is_a_row_that_names_it(tmp_path, name, value):
    def change(item, d):
        with pydicom.config.disable_value_validation():
            setattr(item, name, value)

    made.write_series(tmp_path / "in" / "bad", HU, AFFINE, change=change)
    made.write(tmp_path / "in" / "good.nii.gz", made.chest_on_couch(), made.affine())
    (bad, good), _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert (bad.status, good.status) == ("refused", "ok")
    assert f"{name} is " in bad.reason
    assert "allowed: " in bad.reason


def test_one_slice_out_of_range_is_named_where_the_series_is_refused(tmp_path):
    def change(item, d):
        if d > 3:
            item.ImagePositionPatient = ["0", "0", "1e30"]

    with pytest.raises(UserError, match=r"4 slices; .* 8 files left out: ImagePositionPatient is 0\\0\\1e\+30"):
        load_scan(made.write_series(tmp_path, HU, AFFINE, change=change))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"BitsStored": 12, "HighBit": 11}, "BitsStored is 12 and 16"),
        ({"HighBit": 15, "BitsStored": 12}, "BitsStored is 12 and 16"),
        ({"PixelRepresentation": 1}, "PixelRepresentation is 0 and 1"),
        ({"BitsAllocated": 32}, "BitsAllocated is 16 and 32"),
    ],
)
def test_slices_stored_differently_are_refused(tmp_path, tags, said):
    def change(item, d):
        if d == 5:
            for name, value in tags.items():
                setattr(item, name, value)
            item.PixelData *= item.BitsAllocated // 16

    with pytest.raises(UserError, match=f"{said} in one series; allowed: one value for all"):
        load_scan(made.write_series(tmp_path, HU, AFFINE, change=change))


def test_a_slice_that_claims_more_pixels_than_it_holds(tmp_path):
    def change(item, d):
        item.Rows = item.Columns = 65535

    made.write_series(tmp_path, HU, AFFINE, change=change)
    (found,) = find_scans(tmp_path)
    assert "cut off: 510 bytes of pixels, 65535 x 65535 of 16 bits stated" in found.reason


def test_a_compressed_series_that_claims_more_than_memory_holds(tmp_path):
    def change(item, d):
        _compress(item)
        item.Rows = item.Columns = 65535

    made.write_series(tmp_path, HU, AFFINE, change=change)
    (found,) = find_scans(tmp_path)
    assert "51538034700 voxels in 12 slices; allowed: 1073741824" in found.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PixelSpacing", ["1e200", "1e200"]),
        ("ImagerPixelSpacing", ["nan", "1"]),
        ("RescaleSlope", "1e200"),
        ("RescaleIntercept", "inf"),
        ("WindowWidth", "1e200"),
        ("WindowCenter", "nan"),
        ("DistanceSourceToDetector", "1e-300"),
    ],
)
def test_a_film_with_a_value_out_of_range_is_one_line_that_names_it(tmp_path, name, value):
    usual = {"WindowWidth": "4096", "WindowCenter": "2048", "DistanceSourceToPatient": "1000"}
    assert f"its {name} is " in _refused(_film(tmp_path / "film.dcm", **(usual | {name: value})))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize("size", [(65535, 1500), (41, 32), (40, 31), (16, 16)])
def test_a_compressed_frame_of_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, size):
    path = _film(tmp_path / "film.dcm", syntax, Rows=size[0], Columns=size[1])
    tracemalloc.start()
    said = _refused(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "its compressed frame is of " in said
    assert most < 2**24


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_slice_of_another_size_is_refused(tmp_path, syntax):
    def change(item, d):
        item.compress(syntax, generate_instance_uid=False) if syntax == RLELossless else _compress(item)
        item.Rows -= 1

    with pytest.raises(UserError, match=r"slice000.dcm: its compressed frame is of "):
        load_scan(made.write_series(tmp_path, HU, AFFINE, change=change))


def _compress(item):
    frame = made_dicom.dataset(item.pixel_array, 16, JPEG2000Lossless)
    item.file_meta.TransferSyntaxUID, item.PixelData = JPEG2000Lossless, frame.PixelData
    item["PixelData"].is_undefined_length = True


def test_frames_without_number_are_refused_before_memory_is_taken(tmp_path):
    assert "NumberOfFrames is 1000000000" in _refused(_film(tmp_path / "film.dcm", NumberOfFrames=10**9))


def test_what_a_deflated_file_unpacks_to_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "MOST_UNPACKED", 2**20)
    film = made_dicom.dataset(GREY, syntax=DeflatedExplicitVRLittleEndian)
    film.add_new((0x0009, 0x0010), "LO", "bomb")
    film.add_new((0x0009, 0x1000), "OB", bytes(2**22))
    path = made_dicom.save(film, tmp_path / "film.dcm")
    assert path.stat().st_size < 2**14
    assert "unpacks to more than 1048576 bytes" in _refused(path)
    with pytest.raises(UserError, match="unpacks to more"):
        read_tags(path)
    (row,) = find_scans(tmp_path)
    assert "unpacks to more" in row.reason


@pytest.mark.parametrize("damage", [lambda raw: raw[:-200], lambda raw: raw[:-200] + bytes(200)])
def test_a_damaged_deflated_file_is_refused(tmp_path, damage):
    path = _film(tmp_path / "film.dcm", DeflatedExplicitVRLittleEndian)
    path.write_bytes(damage(path.read_bytes()))
    assert "deflated" in _refused(path)


HOSTILE = SHARED / "cases" / "hostile"


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="needs hostile files in the folder 'shared' beside the checkout")
@pytest.mark.parametrize(
    ("read", "name", "said"),
    [
        (load_scan, "series_positions_1e30", "ImagePositionPatient is"),
        (read_film, "spacing_1e200.dcm", "its ImagerPixelSpacing is 1e+200"),
    ],
)
def test_files_that_attackers_made(read, name, said):
    with pytest.raises(UserError) as error:
        read(HOSTILE / name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
