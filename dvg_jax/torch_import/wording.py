"""Quote what a stranger's file says: short, on one line, and without control characters."""

from collections.abc import Collection
from itertools import islice

_LONGEST = 100
_MOST = 20


def quoted(text: object) -> str:
    """Return the text of a name, number or error, cut to 100 characters and escaped unless it is plain."""
    words = text if isinstance(text, str) else str(text)
    cut = words[:_LONGEST]
    plain = cut if cut.isprintable() else repr(cut)
    return plain if len(words) <= _LONGEST else f"{plain}..."


def listed_quoted(names: Collection[object]) -> str:
    """Return the first 20 of some names, each as :func:`quoted`, and how many more there are."""
    more = len(names) - _MOST
    return ", ".join(map(quoted, islice(names, _MOST))) + (f" and {more} more" if more > 0 else "")
