"""The content of a file decides how it is read; an unreadable file is refused with the true reason."""

import gzip
import io

import h5py
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dvg_jax.data.scans.index import find_scans
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.cases.chest import AFFINE, HU, meta_image, nifti, nrrd
from tests.data import made


def _plain(path):
    return nifti(path.with_name("plain.nii")).read_bytes()


def _pair(path):
    raw = bytearray(_plain(path))
    path.with_name("plain.nii").unlink()
    path.with_suffix(".img").write_bytes(raw[352:])
    raw[108:112], raw[344:348] = np.float32(0).tobytes(), b"ni1\0"
    path.write_bytes(raw[:348])


READABLE = {
    "plain.nii.gz": lambda p: p.write_bytes(_plain(p)),
    "packed.nii": lambda p: p.write_bytes(gzip.compress(_plain(p))),
    "garbage.nii.gz": lambda p: p.write_bytes(gzip.compress(_plain(p)) + b"--boundary--\r\n"),
    "members.nii.gz": lambda p: p.write_bytes(gzip.compress((raw := _plain(p))[:5000]) + gzip.compress(raw[5000:])),
    "nifti.mha": lambda p: p.write_bytes(_plain(p)),
    "nifti.dcm": lambda p: p.write_bytes(_plain(p)),
    "nifti.dat": lambda p: p.write_bytes(_plain(p)),
    "nrrd.nii.gz": nrrd,
    "meta.nrrd": meta_image,
    "meta": meta_image,
    "pair.hdr": _pair,
}


@pytest.mark.parametrize("name", READABLE)
def test_a_scan_under_a_wrong_name_is_read(tmp_path, name):
    READABLE[name](tmp_path / name)
    (tmp_path / "plain.nii").unlink(missing_ok=True)
    (found,) = find_scans(tmp_path)
    assert found.source == name
    np.testing.assert_array_equal(found.load().hu, HU)
    np.testing.assert_array_equal(load_scan(tmp_path / name).hu, HU)


UNREADABLE = {
    "cut.nii.gz": (lambda p: p.write_bytes(gzip.compress(_plain(p))[:-4000]), "end too soon"),
    "twice.nii.gz": (lambda p: p.write_bytes(gzip.compress(_plain(p) * 2)), "holds more than"),
    "page.nii.gz": (lambda p: p.write_text("<!DOCTYPE html><title>Not found</title>"), "begins with b'<!DOCTYP"),
    "empty.nrrd": (lambda p: p.write_bytes(b""), "the file is empty"),
    "packed.nrrd.gz": (lambda p: p.write_bytes(gzip.compress(nrrd(p).read_bytes())), "NRRD file inside gzip"),
    "analyze.hdr": (lambda p: p.write_bytes(np.int32(348).tobytes() + bytes(344)), "an Analyze 7.5 file"),
    "absent.mhd": (lambda p: meta_image(p, "gone.raw"), r"gone\.raw, which is absent"),
    "absent.nhdr": (lambda p: nrrd(p, "gone%02d.raw 0 3 1"), r"gone00\.raw and 3 more, which is absent"),
    "pattern.mhd": (lambda p: meta_image(p, "part%s 1 8 1"), "allowed: a name, LIST, or a pattern"),
    "damaged.mha": (
        lambda p: meta_image(p, "LOCAL", CompressedData="True"),
        "compressed voxels are damaged",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_why(tmp_path, name):
    write, says = UNREADABLE[name]
    write(tmp_path / name)
    (tmp_path / "plain.nii").unlink(missing_ok=True)
    (found,) = find_scans(tmp_path)
    with pytest.raises(UserError, match=says) as error:
        found.load()
    assert name in str(error.value)


def test_what_is_no_scan_is_not_taken_for_one(tmp_path):
    (tmp_path / "notes.txt").write_text("x = 1")
    (tmp_path / "voxels.raw.gz").write_bytes(gzip.compress(HU.tobytes()))
    (tmp_path / "sky.hdr").write_bytes(b"#?RADIANCE\n")
    with h5py.File(tmp_path / "weights.mat", "w") as file:
        file["w"] = [1.0]
    assert find_scans(tmp_path) == []


def _rewritten(path, deflated=False, preamble=True, packed=False):
    item = pydicom.dcmread(path)
    if deflated:
        item.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    written = io.BytesIO()
    item.save_as(written, enforce_file_format=True)
    raw = written.getvalue()[0 if preamble else 132 :]
    return gzip.compress(raw) if packed else raw


@pytest.mark.parametrize(
    "how", [{"deflated": True}, {"preamble": False}, {"deflated": True, "preamble": False}], ids=str
)
@pytest.mark.parametrize("suffix", [".dcm", ".jpg", "", ".nii.gz"])
def test_dicom_is_read_however_it_is_wrapped_and_called(tmp_path, how, suffix):
    for file in made.write_series(tmp_path / "s", HU, AFFINE).iterdir():
        raw = _rewritten(file, **how)
        file.unlink()
        file.with_suffix(suffix).write_bytes(raw)
    (found,) = find_scans(tmp_path)
    np.testing.assert_array_equal(found.load().hu, HU)
    np.testing.assert_array_equal(load_scan(tmp_path / "s").hu, HU)


def test_dicom_inside_gzip_is_one_row_with_the_reason(tmp_path):
    for file in made.write_series(tmp_path / "s", HU, AFFINE).iterdir():
        file.with_name(file.name + ".gz").write_bytes(_rewritten(file, packed=True))
        file.unlink()
    (found,) = find_scans(tmp_path)
    assert (
        found.reason == "DICOM inside gzip; allowed: unpacked files; 35 more files of this folder cannot be read either"
    )
