"""File names that are not UTF-8 are read, listed and printed."""

import sys

import numpy as np
import pytest

from dvg_jax.data.manifest import read_manifest
from dvg_jax.data.prepare import main
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.cases.chest import AFFINE, HU, meta_image, nifti, nrrd
from tests.data import made

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")

FOLDER = b"M\xfcller_J\xf6rg".decode("utf-8", "surrogateescape")
FILE = b"p7_\xe9".decode("utf-8", "surrogateescape")


def test_every_format_is_read_and_listed(tmp_path, capsys):
    source = tmp_path / "in" / FOLDER
    made.write_series(source / "dicom", HU, AFFINE)
    nifti(source / f"{FILE}1.nii.gz")
    meta_image(source / f"{FILE}2.mha")
    nrrd(source / f"{FILE}3.nhdr", "voxels.raw")
    (source / "voxels.raw").write_bytes(HU.astype("<i2").tobytes())
    meta_image(source / f"{FILE}4.mhd", "voxels.raw")
    (source / f"{FILE}5.nii.gz").write_bytes(b"")
    main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--size", "16", "--jobs", "1"])
    assert r"M\xfcller_J\xf6rg/p7_\xe95.nii.gz: " in capsys.readouterr().out
    rows = read_manifest(tmp_path / "out")
    assert [row.status for row in rows] == ["ok"] * 5 + ["refused"]
    assert rows[0].source == r"M\xfcller_J\xf6rg/dicom"
    assert all((tmp_path / "out" / row.file).is_file() for row in rows[:5])
    again, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert again[:5] == rows[:5]


def test_a_message_can_be_printed(tmp_path):
    with pytest.raises(UserError) as error:
        load_scan(tmp_path / FOLDER / "absent.nii")
    assert r"M\xfcller_J\xf6rg/absent.nii: no such file" in str(error.value).encode().decode()


def test_values_are_those_of_the_file(tmp_path):
    np.testing.assert_array_equal(load_scan(made.write_series(tmp_path / FOLDER, HU, AFFINE)).hu, HU)
