"""Read text headers of MetaImage and NRRD: their fields, and the files that contain the voxels."""

import os
import re
from pathlib import Path

from dvg_jax.errors import UserError
from dvg_jax.files.formats import Format, format_of_bytes, head

_MOST_BYTES = 2**20
_MOST_FILES = 10_000
_FIELD = re.compile(r"^\s*([^=:#]+?)\s*(?:=|:(?!=))\s*(.*?)\s*$")
_PATTERN = re.compile(r"^([^%]*%0?\d*d[^%]*?)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)(?:\s+\d+)?$")
_DATA = {Format.META_IMAGE: "elementdatafile", Format.NRRD: "datafile"}


def text_fields(path: Path) -> dict[str, str]:
    """Return the fields of a MetaImage or NRRD header as written; names are in lower case without blanks.

    The first of two equal fields counts. The header ends with ``ElementDataFile`` or a blank line.
    """
    return _read(path)[0]


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files with a scan's bytes: ``path``, and those that its header names.

    Raises UserError for an invalid pattern of names. The named files may be absent.
    """
    kind = format_of_bytes(first := head(path))
    if kind in (Format.NIFTI, Format.ANALYZE):
        return (path, *_voxels_beside(path, first, kind))
    if kind not in _DATA:
        return (path,)
    fields, behind = _read(path)
    named = fields.get(_DATA[kind], "LOCAL")
    if named.upper() == "LOCAL":
        return (path,)
    names = behind if named.upper().split()[:1] == ["LIST"] else _names(path, named)
    return (path, *(path.parent / name for name in names))


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the fields, and the lines of a list of data files."""
    with path.open("rb") as file:
        lines = os.fsdecode(file.read(_MOST_BYTES).split(b"\0")[0]).replace("\r\n", "\n").split("\n")
    fields: dict[str, str] = {}
    for number, line in enumerate(lines):
        if not line.strip():
            break
        if found := _FIELD.match(line):
            name = re.sub(r"\s", "", found[1].lower())
            fields.setdefault(name, found[2])
            if name in _DATA.values() and (name == "elementdatafile" or found[2].upper().startswith("LIST")):
                return fields, [name for line in lines[number + 1 :] if (name := line.strip())]
    return fields, []


def _names(path: Path, named: str) -> list[str]:
    if "%" not in named:
        return [named]
    found = _PATTERN.match(named)
    first, last, step = (int(number) for number in found.groups()[1:]) if found else (0, 0, 0)
    count = (last - first) // step + 1 if step else 0
    if not found or not 0 < count <= _MOST_FILES:
        allowed = f"a name, LIST, or a pattern with one %d and first, last, step for up to {_MOST_FILES} files"
        raise UserError(f"{path}: names its data as {named!r}; allowed: {allowed}")
    return [found[1] % number for number in range(first, last + (1 if step > 0 else -1), step)]


def _voxels_beside(path: Path, first: bytes, kind: Format) -> list[Path]:
    """Return the .img file of a NIfTI pair's or an Analyze header; none for a single file."""
    if kind is Format.NIFTI and b"n+" in (first[344:346], first[4:6]):
        return []
    stem = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    stem = stem[:-4] if stem.lower().endswith((".hdr", ".nii", ".img")) else stem
    suffixes = [".img", ".IMG", ".img.gz", ".IMG.GZ"]
    candidates = [path.with_name(stem + suffix) for suffix in suffixes]
    return [next((file for file in candidates if file.is_file() and file != path), candidates[0])]
