"""Recognise a file's format by its content, since names may be wrong or missing.

first bytes --unpacked where they are gzip--> marks of the formats --> Format, or None
"""

import re
import zlib
from enum import Enum
from pathlib import Path

from pydicom.valuerep import VR

GZIP = b"\x1f\x8b"

_HEAD = 4096
_META_IMAGE = re.compile(rb"\A\s*[A-Za-z]\w*\s*=[^\0]*?^\s*NDims\s*=", re.M)
_NIFTI_SIZES = {348: "<", 540: "<", 0x5C010000: ">", 0x1C020000: ">"}
_VRS = {vr.value.encode() for vr in VR if len(vr.value) == 2}
_FIRST_GROUPS = (0x0002, 0x0008)


class Format(Enum):
    """List the formats of CT scans; the value is the common name of each."""

    NIFTI = "NIfTI"
    ANALYZE = "Analyze 7.5"
    META_IMAGE = "MetaImage"
    NRRD = "NRRD"
    HDF5 = "HDF5"
    DICOM = "DICOM"


def format_of(path: Path) -> Format | None:
    """Return the format of a file, also inside gzip; None for anything else. Raises OSError where it cannot be read."""
    return format_of_bytes(head(path))


def is_gzip(path: Path) -> bool:
    """Return True if the file is compressed as a whole. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def head(path: Path) -> bytes:
    """Return the first 4096 bytes of a file's content, unpacked; fewer or none where it is short or damaged."""
    with path.open("rb") as file:
        raw = file.read(_HEAD)
    if not raw.startswith(GZIP):
        return raw
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(raw, _HEAD)
    except zlib.error:
        return b""


def format_of_bytes(raw: bytes) -> Format | None:
    """Return the format of a file that begins with ``raw``; None for an unknown one."""
    if raw[128:132] == b"DICM" or _dicom_without_preamble(raw):
        return Format.DICOM
    if raw.startswith(b"NRRD000"):
        return Format.NRRD
    if raw[:8] == b"\x89HDF\r\n\x1a\n":
        return Format.HDF5
    if len(raw) >= 348 and int.from_bytes(raw[:4], "little") in _NIFTI_SIZES:
        marks = raw[344:348], raw[4:8]
        nifti = marks[0] in (b"n+1\0", b"ni1\0") or marks[1] in (b"n+2\0", b"ni2\0")
        return Format.NIFTI if nifti else Format.ANALYZE
    return Format.META_IMAGE if _META_IMAGE.match(raw) else None


def _dicom_without_preamble(raw: bytes) -> bool:
    """Return True if ``raw`` begins with a data element of the file's meta group or of the identifying group.

    The element has an explicit value representation, or, where that is implicit, a short even length with another
    element after it.
    """
    if len(raw) < 16:
        return False
    for order in ("little", "big"):
        group, element = (int.from_bytes(raw[at : at + 2], order) for at in (0, 2))
        if group not in _FIRST_GROUPS or element > 0x0100:
            continue
        if raw[4:6] in _VRS:
            return True
        length = int.from_bytes(raw[4:8], order)
        behind = int.from_bytes(raw[8 + length : 10 + length], order)
        if length <= 64 and length % 2 == 0 and behind in _FIRST_GROUPS:
            return True
    return False
