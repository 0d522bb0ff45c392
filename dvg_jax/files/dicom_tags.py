"""Read attributes of a DICOM object, film or CT slice, and report one that cannot be used.

pydicom converts an attribute on first access, and raises any of a dozen types if its bytes make no sense.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dvg_jax.errors import UserError

UNREADABLE = "unreadable"

LIMITS = {
    "ImagePositionPatient": (0.0, 1e5),
    "ImageOrientationPatient": (0.0, 1.1),
    "PixelSpacing": (1e-3, 100.0),
    "ImagerPixelSpacing": (1e-3, 100.0),
    "RescaleSlope": (1e-9, 1e9),
    "RescaleIntercept": (0.0, 1e9),
    "WindowCenter": (0.0, 1e12),
    "WindowWidth": (0.0, 1e12),
    "PixelPaddingValue": (0.0, 2.0**32),
    "PixelPaddingRangeLimit": (0.0, 2.0**32),
    "DistanceSourceToDetector": (1.0, 1e5),
    "DistanceSourceToPatient": (1.0, 1e5),
}
"""An attribute can mean 0 and magnitudes from the first number to the second; lengths are in mm."""

ALLOCATED = (1, 8, 16, 32)


class Word(NamedTuple):
    """Hold BitsAllocated, BitsStored, HighBit and PixelRepresentation, which say how a pixel is stored."""

    allocated: int
    stored: int
    high: int
    signed: int


def beyond(name: str, values: Sequence[float]) -> str:
    """Return why numbers are none that the attribute ``name`` can mean; empty where they are within its limits."""
    least, most = LIMITS[name]
    if all(np.isfinite(value) and abs(value) <= most and (not value or abs(value) >= least) for value in values):
        return ""
    shown = "\\".join(f"{value:.6g}" for value in values)
    return f"{name} is {shown}; allowed: {f'0, or magnitudes from {least:g}' if least else 'magnitudes'} to {most:g}"


def stored_word(film: Dataset) -> Word:
    """Return how the pixels of an object are stored.

    Raises UserError for an attribute that is missing, out of range or in contradiction to the others.
    """
    allocated = whole(film, "BitsAllocated", 1, max(ALLOCATED))
    if allocated not in ALLOCATED:
        raise UserError(f"its BitsAllocated is {allocated}; allowed: {', '.join(map(str, ALLOCATED))}")
    stored = whole(film, "BitsStored", 1, allocated)
    high = whole(film, "HighBit", stored - 1, allocated - 1, default=stored - 1)
    return Word(allocated, stored, high, whole(film, "PixelRepresentation", 0, 1))


def stated(film: Dataset, name: str, allowed: str) -> Any:
    """Return an attribute's value, or None if it is absent or empty.

    Args:
      film: the DICOM object.
      name: the attribute's keyword.
      allowed: end of the error message, which names the allowed values.

    Raises:
      UserError: the attribute's bytes make no sense.
    """
    value = unchecked(film, name)
    if value is UNREADABLE:
        raise UserError(f"its {name} is {UNREADABLE}; {allowed}")
    return None if isinstance(value, str | bytes | MultiValue) and not len(value) else value


def unchecked(film: Dataset, name: str) -> Any:
    """Return an attribute's value, None if it is absent, ``UNREADABLE`` if its bytes make no sense."""
    try:
        return film.get(name)
    except Exception:  # pydicom's converters raise many types
        return UNREADABLE


def whole(film: Dataset, name: str, lowest: int, highest: int, default: int | None = None) -> int:
    """Return an attribute that is a whole number.

    Args:
      film: the DICOM object.
      name: the attribute's keyword.
      lowest, highest: allowed range, both ends included.
      default: value of an absent attribute; None makes it an error.

    Raises:
      UserError: the attribute is absent without a default, not a whole number, or out of range.
    """
    allowed = f"allowed: {lowest}" if lowest == highest else f"allowed: a whole number from {lowest} to {highest}"
    value = stated(film, name, allowed)
    if value is None and default is not None:
        return default
    if value is None:
        raise UserError(f"its {name} is missing; {allowed}")
    found = number(value)
    if found is None or found != int(found) or not lowest <= found <= highest:
        raise UserError(f"its {name} is {brief(value)}; {allowed}")
    return int(found)


def text(film: Dataset, name: str) -> str:
    """Return the text of an attribute in capitals; empty where it is absent or cannot be read."""
    value = unchecked(film, name)
    return "" if value is None or value is UNREADABLE else str(value).strip().upper()


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def meant(name: str, value: Any) -> float | None:
    """Return a number that was read from the attribute ``name``, None for anything else.

    Raises UserError for a number beyond the attribute's limits.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    if why := beyond(name, [found]):
        raise UserError(f"its {why}")
    return found


def positive(film: Dataset, name: str) -> float | None:
    """Return an attribute that is a number above 0, None where it is absent or anything else.

    Raises UserError for a number beyond the attribute's limits.
    """
    found = meant(name, unchecked(film, name))
    return found if found is not None and found > 0 else None


def pair(film: Dataset, name: str, repairs: list[str]) -> tuple[float, float] | None:
    """Return an attribute that is two numbers above 0, or None.

    Args:
      film: the DICOM object.
      name: the attribute's keyword.
      repairs: receives a line for an attribute that is present but of another form.

    Raises:
      UserError: a number is beyond the attribute's limits.
    """
    value = unchecked(film, name)
    if not value:
        return None
    numbers = [meant(name, part) for part in value] if isinstance(value, MultiValue) else []
    row, column = numbers if len(numbers) == 2 else (None, None)
    if row and column and min(row, column) > 0:
        return row, column
    repairs.append(f"{name} not used, it is not two numbers above 0: {brief(value)}")
    return None


def brief(value: Any) -> str:
    """Format an attribute's value for a message: short, on one line."""
    parts = [str(part) for part in value] if isinstance(value, MultiValue) else [str(value)]
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join("\\".join(parts).split()))
    return line if len(line) <= 40 else line[:37] + "..."
