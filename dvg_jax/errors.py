"""Define the error that reports a user's mistake in one line, and hints for its message."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_UNDECODED = re.compile("[\udc80-\udcff]")


class UserError(ValueError):
    r"""Report bad input: the message names the thing, its value and what is allowed.

    Entry points print the message without a traceback and exit with code 2. Bytes of a file's name that are not UTF-8
    appear as ``\xfc``, so that the message can be printed and written anywhere.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Replace Python's stand-ins for bytes that are not UTF-8, as in file names, by ``\xfc`` and the like."""
    return _UNDECODED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


def kind_and_text(error: Exception) -> str:
    """Return an exception's kind and its text on one line, such as ``OverflowError: cannot convert infinity``."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


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
