"""Read voxels as a header says that they are stored: plain, packed or as text, and exactly as many.

file --skip, unpack--> bytes, no more and no fewer than stated --> array (x, y, z)
"""

import bz2
import math
import os
import zlib
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dvg_jax.data.scans.limits import check_claim
from dvg_jax.errors import UserError
from dvg_jax.files.formats import GZIP

_MOST_BEHIND = 2**20
_PIECE = 2**14
"""So many bytes are unpacked at a time: what follows a gzip member is copied once for each, and some are tiny."""
_LEAST_PADDING = 16
"""So many zero bytes behind the voxels are padding; of fewer, one may come from within, which shifts the others."""
_LONGEST_WORD = 64
_LONGEST_LINE = 2**20


class Packing(Enum):
    """List the ways of storing voxels: as they are, by Deflate in gzip or zlib, by bzip2, in two kinds of text.

    ``HEX`` has two digits a byte, ``TEXT`` a decimal number a voxel.
    """

    RAW = auto()
    DEFLATE = auto()
    BZIP2 = auto()
    HEX = auto()
    TEXT = auto()


@dataclass(frozen=True)
class Stored:
    """Hold what a header says about its voxels.

    Attributes:
      sizes: voxels along each axis, the fastest first.
      dtype: type of a voxel, with its byte order.
      files: the files, in order of the slowest axis; each contains an equal share.
      packing: how each file is packed.
      start: offset in each file of what follows.
      lines: lines to skip there.
      skip: bytes to skip after them, counted when unpacked; -1 if the voxels are the last bytes of each file.
      axes: number of axes within each file; None is one less than there are.
    """

    sizes: tuple[int, ...]
    dtype: np.dtype
    files: tuple[Path, ...]
    packing: Packing
    start: int = 0
    lines: int = 0
    skip: int = 0
    axes: int | None = None


def read_voxels(path: Path, stored: Stored) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read voxels; ``path`` is the header's, for error messages.

    Returns:
      The array with the axes ``stored.sizes``, in the machine's byte order; and notes.

    Raises:
      UserError: the files contain more or fewer voxels than stated, or damaged ones.
    """
    each = {Packing.RAW: stored.dtype.itemsize, Packing.HEX: 2 * stored.dtype.itemsize}.get(stored.packing, 1)
    packed = stored.packing in (Packing.DEFLATE, Packing.BZIP2)
    check_claim(path, stored.files, stored.sizes, each, packed)
    share = _voxels_a_file(path, stored)
    parts: list[np.ndarray] = []
    notes: list[str] = []
    for file in stored.files:
        values, more = _read_file(path, file, stored, share)
        parts.append(values)
        notes += more
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    native = values.astype(stored.dtype.newbyteorder("="), copy=False)
    return native.reshape(stored.sizes[::-1]).T, tuple(notes)


def read_bytes(path: Path, file: BinaryIO, size: int, packing: Packing) -> tuple[bytearray, tuple[str, ...]]:
    """Read the bytes from a file's present position to its end, unpacked.

    Compressed ones are read to their end, since damage shows only there. What follows a compressed stream is passed
    over, and so are zeros behind bytes that are stored as they are.

    Args:
      path: the file, for error messages.
      file: the file, open.
      size: how many bytes there must be, unpacked.
      packing: RAW, DEFLATE or BZIP2.

    Returns:
      ``size`` bytes, and a note of what was passed over.

    Raises:
      UserError: there are more bytes or fewer, or they are damaged.
    """
    read = {Packing.RAW: _plain, Packing.DEFLATE: _inflated, Packing.BZIP2: _bunzipped}[packing]
    try:
        found, behind = read(file, size)
    except (zlib.error, ValueError) as error:
        raise UserError(f"{path}: cannot be read (its compressed voxels are damaged: {error})") from error
    except EOFError:
        raise UserError(f"{path}: cannot be read (its compressed voxels end too soon)") from None
    padding = not any(behind) and _LEAST_PADDING <= len(behind) <= _MOST_BEHIND
    if len(found) > size or (packing is Packing.RAW and behind and not padding):
        raise UserError(f"{path}: cannot be read (holds more than the {size} bytes that its header states)")
    if len(found) < size:
        raise UserError(f"{path}: cannot be read (holds {len(found)} of the {size} bytes that its header states)")
    name = Path(file.name).name
    if packing is Packing.RAW and behind:
        return found, (f"zeros behind the voxels of {name} were passed over",)
    return found, (f"bytes behind the compressed ones of {name} were passed over",) * any(behind)


def _voxels_a_file(path: Path, stored: Stored) -> int:
    """Return the voxels in each file. Raises UserError where the number of files is not what the axes say."""
    sizes, count = stored.sizes, len(stored.files)
    axes = len(sizes) - 1 if stored.axes is None else stored.axes
    if count == 1 and stored.axes is None:
        return math.prod(sizes)
    needed = math.prod(sizes[axes:])
    # With all axes within each file, files are slabs along the last one.
    if not 1 <= axes <= len(sizes) or (sizes[-1] % count if axes == len(sizes) else count != needed):
        raise UserError(f"{path}: names {count} files with {axes} axes each; allowed: {needed} for {sizes} voxels")
    return math.prod(sizes) // count


def _read_file(path: Path, name: Path, stored: Stored, voxels: int) -> tuple[np.ndarray, tuple[str, ...]]:
    size = voxels * stored.dtype.itemsize
    with name.open("rb") as file:
        file.seek(stored.start)
        for _ in range(stored.lines):
            if not file.readline(_LONGEST_LINE).endswith(b"\n"):
                raise UserError(f"{path}: cannot be read (ends within the {stored.lines} lines to skip)")
        if stored.packing is Packing.TEXT:
            return _decimal(path, file, stored.dtype, voxels), ()
        if stored.packing is Packing.HEX:
            return np.frombuffer(_unhexed(path, file, size), stored.dtype), ()
        skip = stored.skip
        if stored.packing is Packing.RAW:
            at, length = file.tell(), name.stat().st_size
            file.seek(max(at, length - size) if skip < 0 else at + skip)
            skip = 0
        found, notes = read_bytes(path, file, skip + size, stored.packing)
    return np.frombuffer(found, stored.dtype, offset=skip), notes


def _plain(file: BinaryIO, size: int) -> tuple[bytearray, bytes]:
    found = bytearray(size)
    del found[file.readinto(found) :]  # type: ignore[attr-defined]
    return found, file.read(_MOST_BEHIND + 1)


def _bunzipped(file: BinaryIO, size: int) -> tuple[bytearray, bytes]:
    found, stream = bytearray(), bz2.BZ2File(file)
    try:
        while len(found) <= size and (piece := stream.read(min(_PIECE, size + 1 - len(found)))):
            found += piece
        return found, b""
    except OSError as error:
        if error.errno:
            raise
        raise ValueError(str(error)) from error  # bz2 reports damage as an OSError without a number


def _inflated(file: BinaryIO, size: int) -> tuple[bytearray, bytes]:
    """Return up to ``size`` + 1 bytes out of gzip or zlib, and what follows; gzip may have several members."""
    found = bytearray()
    rest = b""
    while True:
        member = zlib.decompressobj(32 + zlib.MAX_WBITS)
        while not member.eof:
            if not rest and not (rest := file.read(_PIECE)):
                raise EOFError
            found += member.decompress(rest, size + 1 - len(found))
            rest = member.unconsumed_tail
            if len(found) > size:
                return found, b""
        rest = member.unused_data
        if len(rest) < len(GZIP):
            rest += file.read(_PIECE)
        if not rest.startswith(GZIP):
            return found, rest + file.read(_MOST_BEHIND)


def _unhexed(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        found = bytes.fromhex(_text(path, file, size).decode("ascii"))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read (its voxels are no hexadecimal digits: {error})") from error
    if len(found) != size:
        raise UserError(f"{path}: cannot be read (holds {len(found)} of the {size} bytes that its header states)")
    return found


def _decimal(path: Path, file: BinaryIO, dtype: np.dtype, voxels: int) -> np.ndarray:
    try:
        values = np.array(_text(path, file, voxels).replace(b",", b" ").split(), np.float64)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read (its voxels are no numbers: {error})") from error
    if len(values) != voxels:
        raise UserError(f"{path}: cannot be read (holds {len(values)} numbers, its header states {voxels})")
    with np.errstate(invalid="ignore", over="ignore"):
        found = values.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(found, values):
        raise UserError(f"{path}: cannot be read (its voxels are no whole numbers in the range of {dtype.name})")
    return found


def _text(path: Path, file: BinaryIO, words: int) -> bytes:
    start = file.tell()
    if file.seek(0, os.SEEK_END) - start > _LONGEST_WORD * words:
        raise UserError(f"{path}: cannot be read (more than {_LONGEST_WORD} characters a voxel)")
    file.seek(start)
    return file.read()
