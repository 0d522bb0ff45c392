"""Headers that claim more than their file can hold, found before anything is allocated."""

import math
import re
from pathlib import Path

from dvg_jax.errors import UserError

MAX_VOXELS = 2**30
"""A scan of 1024^3; as float32 it takes 4 GiB."""

_MOST_OF_A_BYTE = 1032
"""Deflate, which every compressed format here uses, makes at most so many bytes of one."""

_DETACHED = re.compile(rb"^\s*(?:ElementDataFile\s*=|data file\s*:)\s*(\S.*?)\s*$", re.I | re.M)


def check_claim(path: Path, shape: tuple[int, ...], bytes_a_voxel: int) -> None:
    """Raise UserError for a header's ``shape`` that is above the limit or that the file's bytes cannot hold."""
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise UserError(f"{path}: header states {_times(shape)} voxels, allowed: {MAX_VOXELS} (1024 x 1024 x 1024)")
    data = data_file(path)
    if data is None:
        return
    held = data.stat().st_size
    if voxels * bytes_a_voxel > held * (1 if path.suffix.lower() == ".nii" else _MOST_OF_A_BYTE):
        raise UserError(f"{path}: cannot be read (header states {_times(shape)} voxels, the file holds {held} bytes)")


def data_file(path: Path) -> Path | None:
    """The file with the voxels: ``path``, or the one that a detached header names; None where it names several."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return path
    with path.open("rb") as file:
        named = _DETACHED.search(file.read(65536))
    if not named or named[1] == b"LOCAL":
        return path
    beside = path.parent / named[1].decode(errors="replace")
    return beside if beside.is_file() else None


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
