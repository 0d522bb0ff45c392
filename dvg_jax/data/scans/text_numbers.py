"""Read numbers that text headers state: finite, in limits, and as many as there must be."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dvg_jax.errors import UserError

_LARGEST = 1e9
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,15}", re.ASCII)


def numbers(path: Path, name: str, text: str, count: int) -> Float[np.ndarray, " n"]:
    """Return the numbers that a field states.

    Args:
      path: the file, for error messages.
      name: the field's name, for error messages.
      text: the field's value: decimal numbers between blanks.
      count: how many there must be.

    Raises:
      UserError: there are more or fewer, or one is no finite number below 1e9.
    """
    words = text.split()
    found = np.array([float(word) if _NUMBER.fullmatch(word) else np.nan for word in words])
    if len(words) != count or not (abs(found) < _LARGEST).all():
        raise UserError(f"{path}: {name} is {text[:60]!r}; allowed: {count} numbers below {_LARGEST:g}")
    return found


def whole_numbers(path: Path, name: str, text: str, count: int, least: int = 1) -> tuple[int, ...]:
    """Return the whole numbers that a field states.

    Args:
      path: the file, for error messages.
      name: the field's name, for error messages.
      text: the field's value: whole numbers between blanks.
      count: how many there must be.
      least: the least that each may be.

    Raises:
      UserError: there are more or fewer, or one is no whole number or below ``least``.
    """
    words = text.split()
    found = tuple(int(word) if _WHOLE.fullmatch(word) else least - 1 for word in words)
    if len(words) != count or min(found) < least:
        plural = "a whole number" if count == 1 else f"{count} whole numbers"
        raise UserError(f"{path}: {name} is {text[:60]!r}; allowed: {plural} from {least}")
    return found
