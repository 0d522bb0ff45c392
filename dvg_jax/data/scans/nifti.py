"""Read NIfTI-1 and -2, single files and pairs, compressed or not, under any name."""

import io
import math
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

from dvg_jax.ct.frame import Affine
from dvg_jax.data.scans.geometry import check_same, in_mm, no_orientation
from dvg_jax.data.scans.limits import check_claim, check_data
from dvg_jax.data.scans.voxels import Packing, read_bytes
from dvg_jax.errors import UserError
from dvg_jax.files.formats import head, is_gzip

_UNITS = {0: "mm", 1: "m", 2: "mm", 3: "um"}
_SAME_STEP = 0.01
_LATEST = 2**24
"""Voxels begin before this offset, behind a header and its extensions."""
_LONGEST_QUATERNION = 1.00001
"""Largest square of a unit quaternion's vector part: 1, and a little more by rounding."""

Header = Nifti1Header | Nifti1PairHeader


def read_nifti(path: Path) -> tuple[np.ndarray, Affine, tuple[str, ...]]:
    """Return the array in the file's order of axes, its affine to RAS mm, and notes.

    Raises UserError for no stated orientation, for sform and qform that contradict each other or the voxel sizes, and
    for more or fewer voxels than stated.
    """
    header = _header(path)
    shape = header.get_data_shape()
    affine, notes = _affine(path, header, (*shape, 1, 1)[:3])
    voxels, offset, each = check_data(path)[-1], header.get_data_offset(), header.get_data_dtype().itemsize
    packing = Packing.DEFLATE if is_gzip(voxels) else Packing.RAW
    check_claim(path, (voxels,), shape, each, packed=packing is Packing.DEFLATE)
    if not 0 <= offset <= _LATEST:
        raise UserError(f"{path}: vox_offset is {offset}; allowed: 0 to {_LATEST}")
    with voxels.open("rb") as file:
        raw, more = read_bytes(path, file, offset + math.prod(shape) * each, packing)
    array = header.data_from_fileobj(io.BytesIO(raw))
    # Some writers store a single volume with a trailing axis of length 1.
    return np.squeeze(np.asanyarray(array)), affine, (*notes, *more)


def _header(path: Path) -> Header:
    first = head(path)
    two = 540 in (int.from_bytes(first[:4], "little"), int.from_bytes(first[:4], "big"))
    pair = (first[4:6] if two else first[344:346]) == b"ni"
    kinds = (Nifti2PairHeader, Nifti2Header) if two else (Nifti1PairHeader, Nifti1Header)
    return kinds[0 if pair else 1](first[: 540 if two else 348])


def _affine(path: Path, header: Header, shape: tuple[int, ...]) -> tuple[Affine, tuple[str, ...]]:
    """Return the sform where it is set, else the qform, in mm; and notes."""
    sform, qform = header["sform_code"] > 0, header["qform_code"] > 0
    if not sform and not qform:
        raise no_orientation(path, "sform and qform codes are 0")
    unit = int(header["xyzt_units"]) & 7
    if unit not in _UNITS:
        raise UserError(f"{path}: states lengths in unit {unit}; allowed: 1 (m), 2 (mm), 3 (micron) or 0 (not stated)")
    notes: tuple[str, ...] = ()
    placed = np.asarray(header.get_sform() if sform else _qform(path, header), np.float64)
    if sform:
        steps, stated = np.linalg.norm(placed[:3, :3], axis=0), np.asarray(header["pixdim"][1:4], np.float64)
        if ((stated > 0) & (steps > 0) & (abs(steps - stated) > _SAME_STEP * stated)).any():
            found = f"the sform's are {_times(steps)}, pixdim says {_times(stated)}"
            raise UserError(f"{path}: voxel sizes contradict each other: {found}")
        if qform:
            notes = check_same(path, shape, placed, _qform(path, header), "sform and qform")
    affine, converted = in_mm(path, placed, _UNITS[unit])
    return affine, (*notes, *converted)


def _qform(path: Path, header: Header) -> Affine:
    """Return the qform's affine; a quaternion that is too long by rounding is shortened, as NIfTI's own code does."""
    names = ("quatern_b", "quatern_c", "quatern_d")
    vector = np.array([float(header[name]) for name in names])
    square = float(vector @ vector)
    if not square <= _LONGEST_QUATERNION:
        raise UserError(f"{path}: the qform's quaternion has length {math.sqrt(square):.4g}; allowed: up to 1")
    turned = header.copy()
    for name, value in zip(names, vector / max(1.0, math.sqrt(square)), strict=True):
        turned[name] = value
    return np.asarray(turned.get_qform(), np.float64)


def _times(steps: np.ndarray) -> str:
    return " x ".join(f"{step:.4g}" for step in steps)
