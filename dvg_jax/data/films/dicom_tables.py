"""Apply the lookup tables of a DICOM film: modality, VOI and colour palettes.

pydicom applies tables of 8 and 16 bits whose parts agree. Films contain others too: 12 bits, or bytes packed two to a
word.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import apply_color_lut

from dvg_jax.errors import UserError
from dvg_jax.files.dicom_tags import brief, stated

Table = Callable[[np.ndarray], np.ndarray]
"""Function from values (rows, columns) to table entries of the same shape, float32."""


def table(film: FileDataset, name: str) -> Table | None:
    """Return the first lookup table of the sequence ``name``, or None without one.

    Values beyond the table's ends get its end entries. Raises UserError for a table that is cut short or whose parts
    contradict each other.
    """
    sequence = stated(film, name, "allowed: one table")
    if not sequence:
        return None
    item = sequence[0]
    count, first, bits = _descriptor(name, item)
    data = stated(item, "LUTData", "allowed: a table")
    entries = _entries(data, count, bits, film.original_encoding[1] is not False)
    if len(entries) < count:
        raise UserError(f"its {name} holds {len(entries)} entries; allowed: {count}, as its LUTDescriptor says")

    def apply(values: np.ndarray) -> np.ndarray:
        # The first value is written as an unsigned number where the pixels are unsigned: -100 reads as 65436.
        start = first - 65536 if first > 32767 and values.min() < 0 else first
        places = np.clip(np.rint(values).astype(np.int64) - start, 0, count - 1)
        return entries[places].astype(np.float32)

    return apply


def palette(film: FileDataset, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the colours (rows, columns, 3) of palette indices and the value of white.

    Raises UserError where a palette is missing or damaged.
    """
    try:
        colours = np.asarray(apply_color_lut(values, film))
    except Exception as error:  # pydicom raises its own types for any of six attributes
        raise UserError("its colour palettes cannot be used; allowed: one each for red, green and blue") from error
    return colours, float(np.iinfo(colours.dtype).max)


def _descriptor(name: str, item: Dataset) -> tuple[int, int, int]:
    """Return the number of entries, the value that the first one is for, and the bits of an entry."""
    allowed = "allowed: three whole numbers"
    descriptor = stated(item, "LUTDescriptor", allowed)
    try:
        count, first, bits = (int(part) for part in descriptor)
    except (TypeError, ValueError):
        raise UserError(f"its {name} has the LUTDescriptor {brief(descriptor)}; {allowed}") from None
    # 65536 is written as 0. After a signed first value a large number reads as a negative one.
    return count % 65536 or 65536, first, bits


def _entries(data: Any, count: int, bits: int, little: bool) -> np.ndarray:
    if data is None:
        return np.empty(0, np.uint16)
    if not isinstance(data, bytes):
        return np.ravel(np.asarray(data, np.int64)) & 0xFFFF
    # Entries of up to 8 bits may be packed two to a word.
    if bits <= 8 and len(data) < 2 * count:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
