"""Slices that were sent twice, named one by one or cannot be read give one volume, or one row."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.index import find_scans
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.cases.chest import AFFINE, HU, nifti
from tests.data import made


def _own_uid(item, d):
    item.SeriesInstanceUID = generate_uid()


def _again(folder, count, change=lambda pixels: pixels):
    """Send the first slices again, each under a new SOPInstanceUID."""
    for file in sorted(folder.iterdir())[:count]:
        item = pydicom.dcmread(file)
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        item.PixelData = change(item.PixelData)
        item.save_as(folder / f"again-{file.name}")


def test_the_same_slice_under_a_new_uid_is_taken_once_and_said(tmp_path):
    folder = made.write_series(tmp_path / "s", HU, AFFINE)
    _again(folder, 4)
    scan = load_scan(folder)
    np.testing.assert_array_equal(scan.hu, HU)
    assert scan.notes == ("4 slices that were sent twice left out",)


def test_another_slice_in_the_same_place_is_refused(tmp_path):
    folder = made.write_series(tmp_path / "s", HU, AFFINE)
    _again(folder, 2, lambda pixels: pixels[:-2] + b"\x07\x01")
    with pytest.raises(UserError, match=r"2 slices lie where another lies .* and differ from it"):
        load_scan(folder)


def test_slices_with_a_series_uid_each_are_one_volume(tmp_path):
    folder = made.write_series(tmp_path / "s", HU, AFFINE, change=_own_uid)
    np.testing.assert_array_equal(load_scan(folder).hu, HU)
    (found,) = find_scans(tmp_path)
    assert found.source == "s"
    scan = found.load()
    np.testing.assert_array_equal(scan.hu, HU)
    assert scan.notes == ("36 slices with a SeriesInstanceUID of their own are one volume",)


def test_two_volumes_of_single_slices_stay_apart(tmp_path):
    made.write_series(tmp_path / "a", HU, AFFINE, change=_own_uid)
    made.write_series(tmp_path / "b", HU, AFFINE, change=_own_uid)
    found = find_scans(tmp_path)
    assert [item.source for item in found] == ["a", "b"]
    assert [item.reason for item in found] == ["", ""]


def test_slices_with_a_decimal_comma_are_one_row_that_names_the_field(tmp_path):
    for file in made.write_series(tmp_path / "s", HU, AFFINE).iterdir():
        file.write_bytes(file.read_bytes().replace(b"\\-", b"\\,"))
    (found,) = find_scans(tmp_path)
    assert "ImagePositionPatient is '" in found.reason
    assert "allowed: numbers with a decimal point (35 more files like it)" in found.reason


def test_headers_that_cannot_be_read_are_one_row_a_folder(tmp_path):
    for file in made.write_series(tmp_path / "s", HU, AFFINE).iterdir():
        file.write_bytes(file.read_bytes()[:300])
    (found,) = find_scans(tmp_path)
    assert found.source == "s/slice000.dcm"
    assert found.reason.endswith("; 35 more files of this folder cannot be read either")


def test_files_without_permission_are_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    nifti(tmp_path / "in" / "p1.nii.gz")
    for file in made.write_series(tmp_path / "in" / "s", HU, AFFINE).iterdir():
        file.rename(file.with_suffix(""))
    opened = Path.open

    def forbidden(path, *args, **options):
        if path.parent.name == "s":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", forbidden)  # root, who may run the tests, may read every file
    rows, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert [row.status for row in rows] == ["ok", "refused"]
    assert rows[1].reason.startswith("cannot be read (Permission denied); 35 more files")
