"""Refuse headers that state more voxels than their file can contain, before anything is allocated."""

import math
from pathlib import Path

from dvg_jax.errors import UserError
from dvg_jax.files.headers import data_files

MAX_VOXELS = 2**30
"""Voxels of the largest scan, 1024^3; as float32 it takes 4 GiB."""

_MOST_OF_A_BYTE = 1032
"""Largest expansion by Deflate, which every compressed format here uses."""


def check_claim(
    path: Path, files: tuple[Path, ...], shape: tuple[int, ...], bytes_a_voxel: int, packed: bool = True
) -> None:
    """Check the shape that a header states.

    Args:
      path: the header's file, for error messages.
      files: the files with the voxels.
      shape: voxels along each axis, as stated.
      bytes_a_voxel: bytes of a voxel.
      packed: True if the voxels may be compressed.

    Raises:
      UserError: the shape is above the limit, or the files are too short for it.
    """
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise UserError(f"{path}: header states {_times(shape)} voxels, allowed: {MAX_VOXELS} (1024 x 1024 x 1024)")
    size = sum(file.stat().st_size for file in files)
    if voxels * bytes_a_voxel > size * (_MOST_OF_A_BYTE if packed else 1):
        raise UserError(f"{path}: cannot be read (header states {_times(shape)} voxels, the file holds {size} bytes)")


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
