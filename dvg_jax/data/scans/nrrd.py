"""Read NRRD, with its voxels behind the header or in files of the header's folder.

header --space, directions--> affine to RAS mm; --sizes, type, encoding--> voxels
"""

import re
from pathlib import Path

import numpy as np

from dvg_jax.ct.frame import Affine
from dvg_jax.data.scans.geometry import in_mm, no_orientation
from dvg_jax.data.scans.limits import check_data
from dvg_jax.data.scans.text_numbers import numbers, whole_numbers
from dvg_jax.data.scans.voxels import Packing, Stored, read_voxels
from dvg_jax.errors import UserError
from dvg_jax.files.formats import Format
from dvg_jax.files.headers import TextHeader, read_text_header

_TO_RAS = {
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
}  # fmt: skip
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}
_ENCODINGS = {
    "raw": Packing.RAW, "gzip": Packing.DEFLATE, "gz": Packing.DEFLATE, "bzip2": Packing.BZIP2, "bz2": Packing.BZIP2,
    "hex": Packing.HEX, "text": Packing.TEXT, "txt": Packing.TEXT, "ascii": Packing.TEXT,
}  # fmt: skip
_ORDERS = {"little": "<", "big": ">"}
_WITHOUT_SPACE = ("spacings", "axismins", "axismaxs", "units")
_SPATIAL = {"domain", "space", "none", "???"}
_VECTOR = re.compile(r"\s*(?:none|\(([^(),]*,[^(),]*,[^(),]*)\))", re.I)
_MOST_AXES = 16
_MOST_LINES, _MOST_BYTES = 2**14, 2**24
"""No more of a file is skipped: each line is read, and so is each byte of packed voxels."""


def read_nrrd(path: Path) -> tuple[np.ndarray, Affine, tuple[str, ...]]:
    """Return the array in the file's order of axes, its affine to RAS mm, and notes.

    Raises UserError for a header without orientation, with other than three axes in space or more than one number a
    voxel, with numbers out of range; and for voxels that are absent, damaged, or more or fewer than stated.
    """
    header = read_text_header(path, Format.NRRD)
    fields = header.fields
    unit = _unit(path, fields)
    (count,) = whole_numbers(path, "dimension", fields.get("dimension", ""), 1)
    if count > _MOST_AXES:
        raise UserError(f"{path}: dimension is {count}; allowed: 3, and further axes with one entry")
    sizes = whole_numbers(path, "sizes", fields.get("sizes", ""), count)
    affine, axes = _affine(path, fields, sizes)
    array, notes = read_voxels(path, _stored(path, header, sizes))
    placed, converted = in_mm(path, affine, unit)
    return array.reshape([sizes[axis] for axis in axes], order="F"), placed, (*converted, *notes)


def _unit(path: Path, fields: dict[str, str]) -> str:
    """Return the unit of lengths. Raises UserError where the header states no orientation."""
    space = fields.get("space", "")
    if space.lower() not in _TO_RAS:
        stated = f"space is {space[:40]!r}" if space else "no space"
        known = ", ".join(name for name in _TO_RAS if "-" in name)
        raise no_orientation(path, f"{stated}; known: {known}")
    if "spacedirections" not in fields:
        raise no_orientation(path, "no space directions")
    units = set(fields.get("spaceunits", '"mm"').replace('"', " ").split())
    if len(units) > 1:
        raise UserError(f"{path}: states lengths in {' and '.join(map(repr, sorted(units)))}; allowed: one unit")
    return units.pop() if units else "mm"


def _affine(path: Path, fields: dict[str, str], sizes: tuple[int, ...]) -> tuple[Affine, list[int]]:
    """Return the affine to RAS in the header's unit, and which axes are those in space; the others have one entry."""
    text = fields["spacedirections"]
    vectors = [found[1] for found in _VECTOR.finditer(text)]
    if _VECTOR.sub("", text).strip() or len(vectors) != len(sizes):
        raise UserError(f"{path}: space directions are {text[:60]!r}; allowed: (x,y,z) or none for each axis")
    axes = [axis for axis, vector in enumerate(vectors) if vector is not None]
    if len(axes) != 3 or any(size > 1 for axis, size in enumerate(sizes) if axis not in axes):
        raise UserError(f"{path}: size {sizes}, {len(axes)} axes in space; allowed: 3-D with one value a voxel")
    _check_axes(path, fields, axes)
    affine = np.eye(4)
    for column, axis in enumerate(axes):
        affine[:3, column] = _triple(path, "space directions", str(vectors[axis]))
    origin = _VECTOR.fullmatch(text := fields.get("spaceorigin", "none"))
    if not origin:
        raise UserError(f"{path}: space origin is {text[:60]!r}; allowed: (x,y,z) or none")
    if origin[1]:
        affine[:3, 3] = _triple(path, "space origin", origin[1])
    return np.diag([*_TO_RAS[fields["space"].lower()], 1]) @ affine, axes


def _check_axes(path: Path, fields: dict[str, str], axes: list[int]) -> None:
    """Refuse fields that contradict the axes' directions."""
    kinds = fields.get("kinds", "").lower().split()
    if kinds and (max(axes) >= len(kinds) or not {kinds[axis] for axis in axes} <= _SPATIAL):
        raise UserError(f"{path}: kinds are {fields['kinds'][:60]!r}; allowed: domain or space for an axis in space")
    (dimension,) = whole_numbers(path, "space dimension", fields.get("spacedimension", "3"), 1)
    if dimension != 3:
        raise UserError(f"{path}: space dimension is {dimension}; allowed: 3")
    for name in _WITHOUT_SPACE:
        if set(fields.get(name, "").replace('"', " ").lower().split()) - {"nan", "???"}:
            raise UserError(f"{path}: states {name} beside space directions; allowed: one of both")


def _triple(path: Path, name: str, text: str) -> np.ndarray:
    return numbers(path, name, text.replace(",", " "), 3)


def _stored(path: Path, header: TextHeader, sizes: tuple[int, ...]) -> Stored:
    fields = header.fields
    kind, encoding = " ".join(fields.get("type", "").lower().split()), fields.get("encoding", "").lower()
    if kind not in _DTYPES:
        raise UserError(f"{path}: type is {kind[:40]!r}; allowed: {', '.join(names[0] for names in _TYPES.values())}")
    if encoding not in _ENCODINGS:
        raise UserError(f"{path}: encoding is {encoding[:40]!r}; allowed: {', '.join(_ENCODINGS)}")
    order, packing = fields.get("endian", "").lower(), _ENCODINGS[encoding]
    dtype = np.dtype(_ORDERS.get(order, "=") + _DTYPES[kind])
    if order not in _ORDERS and (order or (dtype.itemsize > 1 and packing is not Packing.TEXT)):
        raise UserError(f"{path}: endian is {order[:40]!r}; allowed: little, big")
    least = -1 if packing is Packing.RAW else 0
    (skip,) = whole_numbers(path, "byte skip", fields.get("byteskip", "0"), 1, least)
    (lines,) = whole_numbers(path, "line skip", fields.get("lineskip", "0"), 1, 0)
    most = {Packing.RAW: skip, Packing.HEX: 0, Packing.TEXT: 0}.get(packing, _MOST_BYTES)
    if lines > _MOST_LINES or skip > most:
        raise UserError(f"{path}: skips {lines} lines and {skip} bytes; allowed: up to {_MOST_LINES} and {most}")
    files, start = check_data(path)[1:] or (path,), 0 if header.names else header.end
    return Stored(sizes, dtype, files, packing, start, lines, skip, header.axes)
