"""Read text headers of MetaImage and NRRD, and find the files that contain a scan's voxels.

file --bounded lines--> fields that the format defines --> names of data files --> files in the header's own folder
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from dvg_jax.errors import UserError
from dvg_jax.files.formats import Format, format_of_bytes, head, is_gzip

_MOST_LINES = 20_000
_LONGEST_LINE = 2**16
_MOST_BYTES = 2**21
_MOST_FILES = 4096
_LONGEST = {Format.META_IMAGE: 255, Format.NRRD: 1000}
"""A field's value is not longer. Other readers have no more room for it, and write beyond."""
_LONGEST_NAME = 1024
_KNOWN = {
    Format.META_IMAGE: {
        "objecttype", "objectsubtype", "fileformatversion", "comment", "acquisitiondate", "ndims", "name", "id",
        "parentid", "color", "binarydata", "compresseddata", "compresseddatasize", "elementbyteordermsb",
        "binarydatabyteordermsb", "offset", "position", "origin", "transformmatrix", "rotation", "orientation",
        "centerofrotation", "distanceunits", "anatomicalorientation", "elementspacing", "dimsize", "headersize",
        "modality", "imageposition", "elementorigin", "elementdirection", "sequenceid", "elementmin",
        "elementmax", "elementnumberofchannels", "elementsize", "elementnbits",
        "elementtointensityfunctionslope", "elementtointensityfunctionoffset", "elementtype", "elementdatafile",
    },
    Format.NRRD: {
        "dimension", "type", "blocksize", "encoding", "endian", "content", "min", "max", "oldmin", "oldmax",
        "sampleunits", "sizes", "number", "spacings", "thicknesses", "axismins", "axismaxs", "centers",
        "centerings", "labels", "units", "kinds", "lineskip", "byteskip", "datafile", "space", "spacedimension",
        "spaceunits", "spaceorigin", "spacedirections", "measurementframe",
    },
}  # fmt: skip
_SEPARATOR = {Format.META_IMAGE: re.compile("[=:]"), Format.NRRD: re.compile(":")}
_MAGIC = re.compile("NRRD000[1-5]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DATA = {Format.META_IMAGE: "elementdatafile", Format.NRRD: "datafile"}
_LIST = re.compile(r"LIST(?:\s+(\d)D?)?", re.I | re.ASCII)
_PATTERN = re.compile(r"([^%]*)%(0?\d{0,2}d)([^%]*?)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(?:\s+(\d))?", re.ASCII)


@dataclass(frozen=True)
class TextHeader:
    """Hold the header of a MetaImage or NRRD file.

    Attributes:
      fields: values of the fields that the format defines; names are in lower case without blanks.
      end: offset of the first byte behind the header.
      names: data files as the header names them; none if the voxels follow the header.
      axes: number of axes within each data file, where the header states it.
    """

    fields: dict[str, str]
    end: int
    names: tuple[str, ...] = ()
    axes: int | None = None


def read_text_header(path: Path, kind: Format) -> TextHeader:
    """Read the header of a MetaImage or NRRD file.

    Comments, NRRD's ``key:=value`` and MetaImage's further fields, such as copies of DICOM tags, are left out.

    Raises:
      UserError: the file is inside gzip, a line or value is too long, a line of NRRD is no field, a field comes again
        with another value, the header has no end, or its data files are no name, list or pattern.
    """
    if is_gzip(path):
        raise UserError(f"{path}: a {kind.value} file inside gzip; allowed: unpacked (its own compression is read)")
    fields: dict[str, str] = {}
    end = 0
    lines = _lines(path)
    for number, (line, behind) in enumerate(lines, 1):
        end = behind
        if kind is Format.NRRD and not line:
            break
        name, value = _field(path, kind, number, line)
        if not name:
            continue
        if fields.get(name, value) != value:
            raise UserError(f"{path}: states {name} twice, not alike; allowed: once")
        most = _LONGEST_NAME if name == _DATA[kind] else _LONGEST[kind]
        if len(value) > most and name != "content":
            raise UserError(f"{path}: {name} has {len(value)} characters; allowed: up to {most}")
        fields[name] = value
        if name == _DATA[kind] and (kind is Format.META_IMAGE or _LIST.fullmatch(value)):
            break
    else:
        # Only a header with its voxels in other files may end with the file.
        if kind is Format.META_IMAGE or _DATA[kind] not in fields:
            raise UserError(f"{path}: cannot be read (its header has no end)")
    named = fields.get(_DATA[kind])
    if named is None or (kind is Format.META_IMAGE and named.upper() == "LOCAL"):
        return TextHeader(fields, end)
    if found := _LIST.fullmatch(named):
        names = [name for line, _ in lines if (name := line.strip())]
        return TextHeader(fields, end, _checked(path, named, names), _number(found[1]))
    return TextHeader(fields, end, *_names(path, named))


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files with a scan's bytes: ``path``, and those that its header names. These may be absent.

    Raises:
      UserError: the header is invalid, or names a file outside of its folder, also by a link. Where the header itself
        is a link, the folder that it leads to counts too.
    """
    kind = format_of_bytes(first := head(path))
    if kind in (Format.NIFTI, Format.ANALYZE):
        names = _voxels_beside(path, first, kind)
    elif kind in _DATA:
        names = list(read_text_header(path, kind).names)
    else:
        names = []
    folders = tuple(os.path.join(os.path.realpath(folder), "") for folder in (path.parent, path.resolve().parent))
    for name in names:
        plain = PureWindowsPath(name)  # Windows' rules know the separators and roots of all systems
        inside = not plain.anchor and ".." not in plain.parts and not _CONTROL.search(name)
        if not inside or not os.path.realpath(path.parent / name).startswith(folders):
            raise UserError(f"{path}: names its data as {name[:60]!r}; allowed: a file in the header's own folder")
    return (path, *(path.parent / name for name in names))


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each line of a header, and the offset behind it."""
    with path.open("rb") as file:
        for number in range(1, _MOST_LINES + 1):
            line = file.readline(_LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > _LONGEST_LINE or b"\0" in line:
                allowed = f"text of up to {_LONGEST_LINE} bytes"
                raise UserError(f"{path}: cannot be read (line {number} of its header is long or binary; {allowed})")
            if file.tell() > _MOST_BYTES:
                break
            yield os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r")), file.tell()
    raise UserError(f"{path}: cannot be read (its header has over {_MOST_LINES} lines or {_MOST_BYTES} bytes)")


def _field(path: Path, kind: Format, number: int, line: str) -> tuple[str, str]:
    """Return name and value of a field; an empty name for a line that is none that the format defines."""
    name, *values = _SEPARATOR[kind].split(line, maxsplit=1)
    name = name.strip().lower().replace(" ", "")
    if values and name in _KNOWN[kind] and not (kind is Format.NRRD and values[0].startswith("=")):
        return name, values[0].strip()
    # Further lines of a MetaImage are copies of DICOM's tags, whose texts may have several lines.
    passed = kind is Format.META_IMAGE or line.startswith("#") or ":=" in line
    if not (_MAGIC.fullmatch(line) if kind is Format.NRRD and number == 1 else passed):
        allowed = "NRRD with version 1 to 5 in line 1, then its fields, KEY:=VALUE or # COMMENT"
        raise UserError(f"{path}: line {number} of its header is {line[:60]!r}; allowed: {allowed}")
    return "", ""


def _names(path: Path, named: str) -> tuple[tuple[str, ...], int | None]:
    """Return the names that a name or a pattern stands for, and the number of axes within each file."""
    if "%" not in named:
        return _checked(path, named, [named]), None
    found = _PATTERN.fullmatch(named)
    if not found:
        return _checked(path, named, []), None
    before, form, behind = found.groups()[:3]
    first, last, step = (int(number) for number in found.groups()[3:6])
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
    names = [before + format(number, form) + behind for number in numbers[: _MOST_FILES + 1]]
    return _checked(path, named, names), _number(found[7])


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _checked(path: Path, named: str, names: list[str]) -> tuple[str, ...]:
    if not 0 < len(names) <= _MOST_FILES or not all(names):
        allowed = f"a name, LIST, or a pattern with one %d and first, last, step for up to {_MOST_FILES} files"
        raise UserError(f"{path}: names its data as {named[:60]!r}; allowed: {allowed}")
    return tuple(names)


def _voxels_beside(path: Path, first: bytes, kind: Format) -> list[str]:
    """Return the name of the .img file of a NIfTI pair's or an Analyze header; none for a single file."""
    if kind is Format.NIFTI and b"n+" in (first[344:346], first[4:6]):
        return []
    stem = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    stem = stem[:-4] if stem.lower().endswith((".hdr", ".nii", ".img")) else stem
    names = [stem + suffix for suffix in (".img", ".IMG", ".img.gz", ".IMG.GZ")]
    return [next((name for name in names if name != path.name and path.with_name(name).is_file()), names[0])]
