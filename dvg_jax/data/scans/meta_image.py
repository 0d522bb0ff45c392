"""Check a MetaImage header: ITK assumes LPS and 1 mm where fields are absent, and trusts all the others."""

import os
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from dvg_jax.ct.frame import Affine
from dvg_jax.data.scans.geometry import no_orientation
from dvg_jax.data.scans.limits import check_claim, check_data
from dvg_jax.errors import UserError

_MATRIX = ("transformmatrix", "rotation", "orientation")
_STEPS = ("elementspacing", "elementsize")
_NUMBERS = (*_MATRIX, *_STEPS, "offset", "position", "origin")
_LONGEST = 255
_LARGEST = 1e6
_OPPOSITE = str.maketrans("LRPASI", "RLAPIS")
_LOCAL = re.compile(rb"^\s*ElementDataFile\s*=\s*LOCAL[^\n]*\n", re.I | re.M)
_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "FLOAT": 4, "DOUBLE": 8}
_CHUNK = 2**20


def check_meta_image(path: Path, fields: dict[str, str]) -> str:
    """Check a header's fields and its compressed data; return the unit of its lengths.

    Raises UserError for other than three axes, no orientation or voxel sizes, numbers or texts out of range, more
    voxels than the file can contain, and damaged compressed data, of which ITK would return the part that unpacks.
    """
    long = next((name for name in ("name", "comment") if len(fields.get(name, "")) > _LONGEST), "")
    if long:
        raise UserError(f"{path}: {long} has {len(fields[long])} characters; allowed: up to {_LONGEST}")
    size = tuple(int(word) for word in fields.get("dimsize", "").split() if word.isdigit())
    if fields.get("ndims") != "3" or len(size) != 3:
        raise UserError(
            f"{path}: NDims is {fields.get('ndims')}, DimSize {fields.get('dimsize')}; allowed: 3-D with one value"
        )
    check_claim(path, size, 1)
    if not set(_MATRIX) & set(fields):
        claim = fields.get("anatomicalorientation", "???")
        more = "" if "?" in claim else f"; AnatomicalOrientation = {claim} alone is read both ways"
        raise no_orientation(path, f"no TransformMatrix{more}")
    if not set(_STEPS) & set(fields):
        raise UserError(f"{path}: states no voxel sizes; allowed: ElementSpacing in mm")
    for name in set(_NUMBERS) & set(fields):
        _check_numbers(path, name, fields[name])
    if fields.get("compresseddata", "").lower() in ("true", "1"):
        _check_unpacks(path, size[0] * size[1] * size[2] * _bytes_a_voxel(fields))
    unit = fields.get("distanceunits", "mm")
    return "mm" if unit == "?" else unit


def claimed(fields: dict[str, str], affine: Affine) -> tuple[str, ...]:
    """Return a note if AnatomicalOrientation, in either of its two readings, contradicts the matrix."""
    claim = fields.get("anatomicalorientation", "").upper()
    codes = "".join(code or "?" for code in nib.aff2axcodes(affine))
    if len(claim) != 3 or "?" in claim + codes or claim in (codes, codes.translate(_OPPOSITE)):
        return ()
    return (f"AnatomicalOrientation = {claim} is not what TransformMatrix says ({codes}); the matrix was used",)


def _check_numbers(path: Path, name: str, text: str) -> None:
    try:
        numbers = np.array(text.split(), np.float64)
    except ValueError:
        numbers = np.array([np.nan])
    if not (np.isfinite(numbers).all() and (abs(numbers) < _LARGEST).all()):
        raise UserError(f"{path}: {name} is {text[:60]}; allowed: numbers below {_LARGEST:g}")


def _bytes_a_voxel(fields: dict[str, str]) -> int:
    return _BYTES.get(fields.get("elementtype", "").upper().removeprefix("MET_").removeprefix("U"), 1)


def _check_unpacks(path: Path, size: int) -> None:
    data = check_data(path)[-1]
    unpacking, length = zlib.decompressobj(32 + zlib.MAX_WBITS), 0
    with data.open("rb") as file:
        if data == path:
            found = _LOCAL.search(file.read(_CHUNK))
            file.seek(found.end() if found else 0, os.SEEK_SET)
        try:
            while not unpacking.eof and (rest := unpacking.unconsumed_tail or file.read(_CHUNK)):
                length += len(unpacking.decompress(rest, _CHUNK))
        except zlib.error as error:
            raise UserError(f"{path}: cannot be read (its compressed voxels are damaged: {error})") from error
    if not unpacking.eof or length < size:
        raise UserError(f"{path}: cannot be read (its compressed voxels end too soon: {length} of {size} bytes)")
