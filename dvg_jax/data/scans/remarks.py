"""Rank the remarks on a prepared scan: some keep it out of every split, and the gravest come first."""

from collections.abc import Iterable

UPSIDE_DOWN = "looks upside down: head and feet exchanged"
NO_LUNGS = "no lungs"
IN_PART = "lungs in part"
PARTIAL = "partial"
CUT = "lungs cut"
PADDING = "padding"

_FIRST = (UPSIDE_DOWN, NO_LUNGS, IN_PART, PARTIAL, CUT)
_LAST = len(_FIRST) + 1


def ranked(checks: Iterable[str]) -> list[str]:
    """Sort remarks: the gravest first, in a fixed order, and the common one that padding is air last."""
    return sorted(checks, key=rank)


def rank(check: str) -> int:
    """Return the place of a remark in the order of gravity; less is graver."""
    place = next((place for place, begins in enumerate(_FIRST) if check.startswith(begins)), _LAST - 1)
    return _LAST if check.startswith(PADDING) else place


def no_split(checks: str, keep_partial: bool) -> str:
    """Return why a scan with these remarks belongs to no split; empty where nothing bars it.

    Heads and abdomens show no chest. A scan that covers less than half of the field is allowed by ``keep_partial``.
    """
    barred = (NO_LUNGS, IN_PART) if keep_partial else (NO_LUNGS, IN_PART, PARTIAL)
    return next((check for check in checks.split("; ") if check.startswith(barred)), "")


def worth_a_look(rows: list[str]) -> tuple[list[str], list[list[str]]]:
    """Split every scan's ``checks`` into the remarks that all scans (of three or more) share, and the rest of each.

    The remark that padding is air is left out.
    """
    each = [[check for check in checks.split("; ") if check and rank(check) < _LAST] for checks in rows]
    shared = set.intersection(*map(set, each)) if len(each) > 2 else set()
    return ranked(shared), [ranked(check for check in checks if check not in shared) for checks in each]
