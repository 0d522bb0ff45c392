"""A scan is prepared anew when any of its files changes, also a file that a header names."""

import os

import numpy as np
import pytest

from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from tests.cases.chest import AFFINE, HU, meta_image, nifti, nrrd
from tests.data import made

PARTS = [f"s{number:02d}.raw" for number in range(HU.shape[0])]


def _parts(folder):
    for name, plane in zip(PARTS, HU, strict=True):
        (folder / name).write_bytes(plane.astype("<i2").tobytes())


def _nrrd_list(folder):
    nrrd(folder / "a1.nhdr", "LIST\n" + "\n".join(PARTS))


def _pair(folder):
    raw = bytearray(nifti(folder / "a1.nii").read_bytes())
    (folder / "a1.nii").unlink()
    (folder / "s05.raw").unlink()
    (folder / "a1.img").write_bytes(raw[352:])
    raw[108:112], raw[344:348] = np.float32(0).tobytes(), b"ni1\0"
    (folder / "a1.hdr").write_bytes(raw[:348])


WRITE = {
    "nrrd pattern": (lambda p: nrrd(p / "a1.nhdr", f"s%02d.raw 0 {len(PARTS) - 1} 1"), "s05.raw"),
    "nrrd list": (_nrrd_list, "s05.raw"),
    "meta pattern": (lambda p: meta_image(p / "a1.mhd", f"s%02d.raw 0 {len(PARTS) - 1} 1"), "s05.raw"),
    "meta list": (lambda p: meta_image(p / "a1.mhd", "LIST\n" + "\n".join(PARTS)), "s05.raw"),
    "nifti pair": (_pair, "a1.img"),
    "dicom": (lambda p: made.write_series(p / "a1", HU, AFFINE), "a1/slice007.dcm"),
}


@pytest.mark.parametrize("kind", WRITE)
def test_a_part_that_changes_is_noticed(tmp_path, kind):
    """The changed part has its old size and is older than another: total size and newest time stay the same."""
    write, part = WRITE[kind]
    source = tmp_path / "in"
    source.mkdir()
    _parts(source)
    write(source)
    for file in source.rglob("*"):
        os.utime(file, (2e9, 2e9))
    job = Job(tmp_path / "out", Settings(16))
    (before,), _ = prepare_folder(source, job)
    assert before.status == "ok"
    assert prepare_folder(source, job)[0] == [before]
    changed = bytearray((source / part).read_bytes())
    changed[-2:] = np.int16(40).tobytes()
    (source / part).write_bytes(changed)
    os.utime(source / part, (1.9e9, 1.9e9))
    (after,), _ = prepare_folder(source, job)
    assert after.status == "ok"
    assert after.stamp != before.stamp
