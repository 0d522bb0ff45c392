"""HDF5 takes voxels from any file that it names, invents those that are absent, and unpacks what it states."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError

HU = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)


def external_link(file: h5py.File, other: Path) -> None:
    file["ct"] = h5py.ExternalLink(str(other), "ct")


def soft_link(file: h5py.File, other: Path) -> None:
    file["ct"] = h5py.SoftLink("/ct")


def external_bytes(file: h5py.File, other: Path) -> None:
    file.create_dataset("ct", (10, 10, 10), "i2", external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((10, 10, 10), "i2")
    layout[...] = h5py.VirtualSource(str(other), "ct", (10, 10, 10))
    file.create_virtual_dataset("ct", layout)


def absent(file: h5py.File, other: Path) -> None:
    file.create_dataset("ct", (10, 10, 10), "i2", chunks=(10, 10, 10))


def endless(file: h5py.File, other: Path) -> None:
    file.create_dataset("ct", (10**6, 10**6, 10**6), "i2", chunks=(10, 10, 10))[:1, :1, :1] = 1


def large_chunk(file: h5py.File, other: Path) -> None:
    file.create_dataset("ct", data=HU, chunks=(64, 256, 256), maxshape=(None,) * 3, compression="gzip")


def packed_twice(file: h5py.File, other: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((10, 10, 10))
    properties.set_deflate(9)
    properties.set_deflate(9)
    space = h5py.h5s.create_simple((10, 10, 10))
    h5py.Dataset(h5py.h5d.create(file.id, b"ct", h5py.h5t.NATIVE_INT16, space, properties))[...] = HU


def words(file: h5py.File, other: Path) -> None:
    file["ct"] = np.full((10, 10, 10), b"word")


KINDS: dict[Callable[[h5py.File, Path], None], str] = {
    external_link: "no three-dimensional data set",
    soft_link: "no three-dimensional data set",
    external_bytes: "in other files",
    virtual: "in other files",
    absent: "no voxels",
    endless: "header states 1000000 x 1000000 x 1000000 voxels",
    large_chunk: r"chunks of \(64, 256, 256\) voxels",
    packed_twice: "packed more than once",
    words: "of numbers",
}


@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
def test_refused(write: Callable[[h5py.File, Path], None], tmp_path: Path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["ct"] = HU
    with h5py.File(tmp_path / "ct.h5", "w") as file:
        write(file, tmp_path / "other.h5")
    with pytest.raises(UserError, match=KINDS[write]):
        load_scan(tmp_path / "ct.h5")


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"chunks": (7, 7, 7), "shuffle": True}])
def test_read(options: dict, tmp_path: Path):
    with h5py.File(tmp_path / "ct.h5", "w") as file:
        file.create_dataset("ct", data=HU, **options)
    assert load_scan(tmp_path / "ct.h5").hu.shape == HU.shape
