"""Check that the strips or tiles of a TIFF are whole: libtiff only warns of many damages and leaves what it has.

Deflate has a checksum, which is compared. Of PackBits and plain pixels the number of bytes is known. LZW and others are
left to libtiff, which refuses what it cannot decode.
"""

import math
import zlib
from collections.abc import Mapping
from io import BufferedIOBase
from typing import Any

from dvg_jax.errors import UserError
from dvg_jax.files.packbits import unpacked_size

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_STRIPS = {"offsets": 273, "counts": 279, "rows": 278, "columns": _WIDTH}
_TILES = {"offsets": 324, "counts": 325, "rows": 323, "columns": 322}
_PLAIN, _PACKBITS, _DEFLATE = 1, 32773, (8, 32946)
_YCBCR = 6
"""In this photometric interpretation colours may be stored for every second pixel, so that sizes differ."""


def check_strips(tags: Mapping[int, Any], file: BufferedIOBase) -> None:
    """Refuse a TIFF with a strip or tile that is not whole.

    Args:
      tags: numbers of tags to values, as Pillow reads them.
      file: the file, open for reading.

    Raises:
      UserError: a strip lies outside the file, or does not decode to exactly its number of bytes.
    """
    names = _TILES if _TILES["offsets"] in tags else _STRIPS
    offsets = _numbers(tags, names["offsets"])
    sizes = _sizes(tags, names)
    compression = tags.get(_COMPRESSION, _PLAIN)
    plain = [full for full, _ in sizes] if compression == _PLAIN else None
    counts = _numbers(tags, names["counts"]) if names["counts"] in tags or plain is None else plain
    if not len(offsets) == len(counts) == len(sizes):
        raise UserError(f"a TIFF with {len(offsets)} strips and {len(counts)} sizes of them; allowed: {len(sizes)}")
    end = file.seek(0, 2)
    for number, (offset, count, (least, full)) in enumerate(zip(offsets, counts, sizes, strict=True), 1):
        where = f"strip {number} of the TIFF"
        if count < 1 or offset + count > end:
            raise UserError(f"{where} is at byte {offset} and has {count} bytes; allowed: within the {end} bytes of it")
        file.seek(offset)
        found = _decoded_size(file, count, compression, full, where)
        if found is not None and found not in (least, full) and tags.get(_PHOTOMETRIC) != _YCBCR:
            raise UserError(f"{where} holds {found} bytes of pixels; allowed: {least}, as its header says")


def _sizes(tags: Mapping[int, Any], names: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return the bytes of pixels of every strip in order; the last one may be padded to the second number."""
    width, length = (_numbers(tags, name)[0] for name in (_WIDTH, _LENGTH))
    rows = _numbers(tags, names["rows"])[0] if names["rows"] in tags else length
    rows = rows if names is _TILES else min(rows, length)
    columns = _numbers(tags, names["columns"])[0]
    if min(width, length, rows, columns) < 1:
        raise UserError(f"a TIFF of {width} x {length} pixels in strips of {columns} x {rows}; allowed: 1 or more")
    bits, samples = _numbers(tags, _BITS) if _BITS in tags else (1,), int(tags.get(_SAMPLES, 1))
    planes = samples if tags.get(_PLANAR, 1) == 2 else 1
    row = math.ceil(columns * bits[0] * (samples // planes) / 8)
    if names is _TILES:
        return [(row * rows, row * rows)] * (math.ceil(width / columns) * math.ceil(length / rows) * planes)
    plane = [(row * min(rows, length - start), row * rows) for start in range(0, length, rows)]
    return plane * planes


def _decoded_size(file: BufferedIOBase, count: int, compression: int, full: int, where: str) -> int | None:
    """Return the bytes that the strip at the file's position decodes to; None for a compression that tells nothing."""
    if compression == _PLAIN:
        return count
    if compression == _PACKBITS:
        return unpacked_size(file.read(count))
    if compression not in _DEFLATE:
        return None
    unpacker = zlib.decompressobj()
    try:
        # One byte more than allowed is enough to see that there is too much; the checksum follows the last one.
        pixels = unpacker.decompress(file.read(count), full + 1)
    except zlib.error as error:
        raise UserError(f"{where} is damaged ({error})") from error
    if len(pixels) <= full and not unpacker.eof:
        raise UserError(f"{where} is cut off")
    return len(pixels)


def _numbers(tags: Mapping[int, Any], name: int) -> tuple[int, ...]:
    value = tags.get(name)
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(isinstance(number, int) for number in values):
        raise UserError(f"the TIFF's tag {name} is {str(value)[:40]}; allowed: whole numbers")
    return values
