"""Define the error that reports a user's mistake in one line, hints for its message, and how lines are printed."""

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

_UNDECODED = re.compile("[\udc80-\udcff]")

_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_WITHIN_TEXT = re.compile("[\t\n]")
"""A text of several lines may contain these controls, but no single line."""


class UserError(ValueError):
    r"""Report bad input: the message names the thing, its value and what is allowed.

    Entry points print the message without a traceback and exit with code 2. Bytes of a file's name that are not UTF-8
    appear as ``\xfc``, and controls as ``\x1b``, so that the message can be printed and written anywhere.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Escape controls, and Python's stand-ins for bytes that are not UTF-8, as in file names, as ``\xfc``."""
    return _UNDECODED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", visible(text))


def visible(text: str) -> str:
    r"""Escape what steers a terminal or reorders a line (C0, C1, bidi overrides) as ``\x1b``, but no tab or newline."""
    return _CONTROLS.sub(_escaped, text)


def printable_line(text: str) -> str:
    """Return printable text of one line: tabs and newlines are escaped too."""
    return _WITHIN_TEXT.sub(_escaped, printable(text))


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line that may contain words of strangers, such as names of files and patients; stdout by default."""
    print(_WITHIN_TEXT.sub(_escaped, visible(line)), file=file or sys.stdout)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def kind_and_text(error: Exception) -> str:
    """Return an exception's kind and its text on one line, such as ``OverflowError: cannot convert infinity``."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":"))


def did_you_mean(value: object, names: Iterable[object]) -> str:
    """Return a hint ``; did you mean NAME?`` where one of ``names`` is close to ``value``, else "".

    The hint belongs before ``; allowed``.
    """
    near = get_close_matches(str(value), list(map(str, names)), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def near_path(path: Path) -> str:
    """Return a hint like :func:`did_you_mean`, among the entries of the nearest existing folder above ``path``.

    The hint is empty for a path that exists.
    """
    if path.exists():
        return ""
    missing = path
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    try:
        siblings = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:
        return ""
    near = get_close_matches(missing.name, siblings, n=1)
    return f"; did you mean {missing.parent / near[0]}?" if near else ""


def listed(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
