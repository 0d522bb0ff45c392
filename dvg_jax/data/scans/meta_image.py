"""Read MetaImage, with its voxels behind the header or in files of the header's folder.

header --TransformMatrix, Offset, ElementSpacing--> affine to RAS mm; --DimSize, ElementType--> voxels
"""

import re
from pathlib import Path

import nibabel as nib
import numpy as np

from dvg_jax.ct.frame import Affine
from dvg_jax.data.scans.geometry import LPS_TO_RAS, in_mm, no_orientation
from dvg_jax.data.scans.limits import check_claim, check_data
from dvg_jax.data.scans.text_numbers import numbers, whole_numbers
from dvg_jax.data.scans.voxels import Packing, Stored, read_voxels
from dvg_jax.errors import UserError
from dvg_jax.files.formats import Format
from dvg_jax.files.headers import TextHeader, read_text_header

_MATRIX = ("transformmatrix", "rotation", "orientation")
_OFFSET = ("offset", "position", "origin")
_ORDER = ("binarydatabyteordermsb", "elementbyteordermsb")
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
"""MET_LONG has four bytes on every machine, as in MetaIO's own table."""
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_FIXED = {"elementnumberofchannels": 1, "elementtointensityfunctionslope": 1, "elementtointensityfunctionoffset": 0}
"""These fields have one allowed value: programs do not agree whether ElementToIntensity applies to stored values."""
_CLAIM = re.compile("[LRAPSI]{3}", re.I)
_OPPOSITE = str.maketrans("LRPASI", "RLAPIS")


def read_meta_image(path: Path) -> tuple[np.ndarray, Affine, tuple[str, ...]]:
    """Return the array in the file's order of axes, its affine to RAS mm, and notes.

    Raises UserError for a header without orientation or voxel sizes, with other than three axes or more than one number
    a voxel, with numbers out of range or fields that contradict each other; and for voxels that are absent, damaged, or
    more or fewer than stated.
    """
    header = read_text_header(path, Format.META_IMAGE)
    fields = header.fields
    if fields.get("ndims") != "3" or len(fields.get("dimsize", "").split()) != 3:
        stated = f"NDims is {fields.get('ndims')!r}, DimSize {fields.get('dimsize')!r}"
        raise UserError(f"{path}: {stated}; allowed: 3-D with one value")
    _check_values(path, fields)
    stored = _stored(path, header)
    affine = _affine(path, fields)
    array, notes = read_voxels(path, stored)
    unit = fields.get("distanceunits", "mm")
    placed, converted = in_mm(path, LPS_TO_RAS @ affine, "mm" if unit == "?" else unit)
    return array, placed, (*converted, *_claimed(fields, placed), *notes)


def _check_values(path: Path, fields: dict[str, str]) -> None:
    """Refuse objects that are no images, voxels as text, and values that need another step to become HU."""
    kind = fields.get("objecttype", "Image")
    if kind.lower() != "image":
        raise UserError(f"{path}: objecttype is {kind[:40]!r}; allowed: Image")
    if not _boolean(path, fields, "binarydata", absent="true"):
        raise UserError(f"{path}: binarydata is False; allowed: True")
    for name, only in _FIXED.items():
        if numbers(path, name, fields.get(name, str(only)), 1) != only:
            raise UserError(f"{path}: {name} is {fields[name][:40]!r}; allowed: {only}")


def _affine(path: Path, fields: dict[str, str]) -> Affine:
    """Return the affine to LPS in the header's unit."""
    if not set(_MATRIX) & set(fields):
        claim = fields.get("anatomicalorientation", "")
        more = f"; AnatomicalOrientation = {claim} alone is read both ways" if _CLAIM.fullmatch(claim) else ""
        raise no_orientation(path, f"no TransformMatrix{more}")
    steps = fields.get("elementspacing", fields.get("elementsize"))
    if steps is None:
        raise UserError(f"{path}: states no voxel sizes; allowed: ElementSpacing in mm")
    affine = np.eye(4)
    # Each row of the matrix is the direction of an axis of the array.
    matrix = _one_of(path, fields, _MATRIX, 9).reshape(3, 3)
    affine[:3, :3] = matrix.T * numbers(path, "elementspacing", steps, 3)
    if set(_OFFSET) & set(fields):
        affine[:3, 3] = _one_of(path, fields, _OFFSET, 3)
    return affine


def _one_of(path: Path, fields: dict[str, str], names: tuple[str, ...], count: int) -> np.ndarray:
    """Return the numbers of a field that has several names. Raises UserError where two of them differ."""
    stated = {name: numbers(path, name, fields[name], count) for name in names if name in fields}
    first, *others = stated.values()
    if any((first != other).any() for other in others):
        raise UserError(f"{path}: {' and '.join(stated)} contradict each other; allowed: one of them")
    return first


def _stored(path: Path, header: TextHeader) -> Stored:
    fields = header.fields
    sizes = whole_numbers(path, "dimsize", fields["dimsize"], 3)
    files = check_data(path)[1:] or (path,)
    check_claim(path, files, sizes, 1)
    kind = fields.get("elementtype", "").upper()
    if kind not in _TYPES:
        raise UserError(f"{path}: elementtype is {kind[:40]!r}; allowed: {', '.join(_TYPES)}")
    orders = {_boolean(path, fields, name) for name in _ORDER if name in fields}
    if len(orders) > 1:
        raise UserError(f"{path}: {' and '.join(_ORDER)} contradict each other; allowed: one of them")
    packed = _boolean(path, fields, "compresseddata")
    start = 0 if header.names else header.end
    (skip,) = whole_numbers(path, "headersize", fields.get("headersize", "0"), 1, -1)
    if skip and (packed or (skip > 0 and start)):
        raise UserError(f"{path}: headersize is {skip}; allowed: 0 with voxels that are compressed or in the same file")
    (stated,) = whole_numbers(path, "compresseddatasize", fields.get("compresseddatasize", "0"), 1, 0)
    for file in files if packed and stated else ():
        found = file.stat().st_size - start
        if found != stated:
            raise UserError(f"{path}: cannot be read (CompressedDataSize is {stated}, {file.name} holds {found})")
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if True in orders else "<")
    packing = Packing.DEFLATE if packed else Packing.RAW
    return Stored(sizes, dtype, files, packing, start, skip=skip, axes=header.axes)


def _boolean(path: Path, fields: dict[str, str], name: str, absent: str = "false") -> bool:
    text = fields.get(name, absent).lower()
    if text not in _BOOLEANS:
        raise UserError(f"{path}: {name} is {text[:40]!r}; allowed: True, False")
    return _BOOLEANS[text]


def _claimed(fields: dict[str, str], affine: Affine) -> tuple[str, ...]:
    """Return a note if AnatomicalOrientation, in either of its two readings, contradicts the matrix."""
    claim = fields.get("anatomicalorientation", "").upper()
    codes = "".join(code or "?" for code in nib.aff2axcodes(affine))
    if not _CLAIM.fullmatch(claim) or "?" in codes or claim in (codes, codes.translate(_OPPOSITE)):
        return ()
    return (f"AnatomicalOrientation = {claim} is not what TransformMatrix says ({codes}); the matrix was used",)
