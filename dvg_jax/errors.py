"""What a user did that cannot work, told in one line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_UNDECODED = re.compile("[\udc80-\udcff]")


class UserError(ValueError):
    r"""Bad input: the message names the thing, its value and what is allowed.

    Entry points print the message without a traceback and exit with code 2. Bytes of a file's name that are no UTF-8
    are shown as ``\xfc``, so that the message can be printed and written anywhere.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    r"""Replace what Python stands in for bytes that are no UTF-8, as names of files may hold, by ``\xfc`` and such."""
    return _UNDECODED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


def did_you_mean(value: object, names: Iterable[object]) -> str:
    """``; did you mean NAME?`` where one of ``names`` is close to ``value``, or nothing; before ``; allowed``."""
    near = get_close_matches(str(value), list(map(str, names)), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def near_path(path: Path) -> str:
    """As :func:`did_you_mean`, of a path that does not exist, among what lies in the nearest folder above that does."""
    if path.exists():
        return ""
    missing = path
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    try:
        beside = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:
        return ""
    near = get_close_matches(missing.name, beside, n=1)
    return f"; did you mean {missing.parent / near[0]}?" if near else ""
