"""Open DICOM files of any origin: what they unpack to is limited, and so is the size that a compressed frame claims."""

import struct
import warnings
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from dvg_jax.errors import UserError
from dvg_jax.files.packbits import unpacked_size

MOST_UNPACKED = 2**29
"""A deflated file unpacks to so many bytes at most: a film of 100 million pixels of 4 bytes, and its attributes."""

_PIECE = 2**20
_META_GROUP = 2
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_START_OF_SCAN = 0xDA
_NO_LENGTH = (0x01, *range(0xD0, 0xD9))
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""These markers state the size: those of JPEG, and the one of JPEG-LS."""


def open_dicom(path: Path, **options: Any) -> FileDataset:
    """Read a DICOM file with ``pydicom.dcmread(path, force=True, **options)``, unless it unpacks to too much.

    Raises:
      UserError: a deflated file is damaged or unpacks to more than ``MOST_UNPACKED`` bytes.
      Exception: pydicom raises a dozen types for damaged files.
    """
    with path.open("rb") as file:
        read_preamble(file, force=True)
        meta = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != _META_GROUP
        )
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            _check_unpacked(file)
    with warnings.catch_warnings(action="ignore"):  # pydicom warns about character sets and lengths
        return pydicom.dcmread(path, force=True, **options)


def check_frame(pixels: bytes, shape: tuple[int, ...], syntax: UID) -> None:
    """Refuse compressed pixels whose first frame is of another size than its header says, before it is decoded.

    JPEG, JPEG-LS and JPEG 2000 repeat the size inside the frame, and decoders allocate what they find there. RLE states
    no size, and decoders drop what is too much.

    Args:
      pixels: value of PixelData.
      shape: rows and columns (further axes are ignored).
      syntax: transfer syntax of the pixels.

    Raises:
      UserError: there is no frame, or it is damaged or of another size.
    """
    rows, columns = shape[:2]
    try:
        frame = next(generate_frames(pixels, number_of_frames=1))
    except Exception as error:  # damaged marks between the frames
        raise UserError("its compressed pixels hold no frame; allowed: one") from error
    if syntax == RLELossless:
        found, stated = _rle_size(frame), str(rows * columns)
    else:
        found = _jpeg_size(frame) if frame.startswith(_JPEG) else _jpeg_2000_size(frame)
        stated = f"{rows} x {columns}"
    if found != stated:
        raise UserError(f"its compressed frame is of {found} pixels; allowed: {stated}, as its header says")


def _rle_size(frame: bytes) -> str:
    """Return the number of pixels that an RLE frame decodes to: each of its segments holds one byte of every pixel."""
    count, *starts = struct.unpack("<16I", frame[:64].ljust(64, b"\0"))
    starts = [*starts[:count], len(frame)]
    sizes = {unpacked_size(frame[start:end]) for start, end in pairwise(starts)}
    return " and ".join(map(str, sorted(sizes))) or "0"


def _jpeg_2000_size(frame: bytes) -> str:
    start = frame.find(_JPEG_2000, 0, _PIECE)
    if start < 0:
        raise UserError(
            "its compressed pixels are damaged or of a kind not known here: neither JPEG, JPEG 2000 nor RLE"
        )
    right, bottom, left, top = struct.unpack_from(">4I", frame.ljust(start + 24, b"\0"), start + 8)
    return f"{bottom - top} x {right - left}"


def _jpeg_size(frame: bytes) -> str:
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in _FRAME_HEADERS:
            rows, columns = struct.unpack_from(">2H", frame, place + 5)
            return f"{rows} x {columns}"
        if marker == _START_OF_SCAN:
            break
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
        elif marker in _NO_LENGTH:
            place += 2
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    raise UserError("its compressed pixels are damaged: a JPEG without a header")


def _check_unpacked(file: BinaryIO) -> None:
    """Unpack the rest of a file in pieces that are dropped; only their number of bytes counts."""
    unpacker, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while not unpacker.eof and (piece := unpacker.unconsumed_tail or file.read(_PIECE)):
            total += len(unpacker.decompress(piece, _PIECE))
            if total > MOST_UNPACKED:
                raise UserError(f"a deflated DICOM file that unpacks to more than {MOST_UNPACKED} bytes, the limit")
    except zlib.error as error:
        raise UserError(f"a deflated DICOM file that is damaged ({error})") from error
    if not unpacker.eof:
        raise UserError("a deflated DICOM file that is cut off")
