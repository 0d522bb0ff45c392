"""Headers that claim more than their file can hold, found before anything is allocated."""

import math
from pathlib import Path

from dvg_jax.errors import UserError
from dvg_jax.files.headers import data_files

MAX_VOXELS = 2**30
"""A scan of 1024^3; as float32 it takes 4 GiB."""

_MOST_OF_A_BYTE = 1032
"""Deflate, which every compressed format here uses, makes at most so many bytes of one."""


def check_claim(path: Path, shape: tuple[int, ...], bytes_a_voxel: int, packed: bool = True) -> None:
    """Raise UserError for a header's ``shape`` that is above the limit or that its files' bytes cannot hold.

    ``packed``: the voxels may be compressed.
    """
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise UserError(f"{path}: header states {_times(shape)} voxels, allowed: {MAX_VOXELS} (1024 x 1024 x 1024)")
    held = sum(file.stat().st_size for file in check_data(path))
    if voxels * bytes_a_voxel > held * (_MOST_OF_A_BYTE if packed else 1):
        raise UserError(f"{path}: cannot be read (header states {_times(shape)} voxels, the file holds {held} bytes)")


def check_data(path: Path) -> tuple[Path, ...]:
    """Return the files with a scan's bytes; raise UserError where one that its header names is absent."""
    files = data_files(path)
    absent = [file for file in files if not file.is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"{path}: cannot be read (the header names {absent[0]}{more}, which is absent)")
    return files


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
