"""Divide patients into training and test sets, by chance or by lists, and never one patient into two sets."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dvg_jax.data.manifest import Row, slug
from dvg_jax.data.scans import remarks
from dvg_jax.errors import UserError

STRICTEST_FIRST = ("test", "val", "train")
"""Order in which sets claim a patient that several lists name: test patients must not be trained on."""


@dataclass(frozen=True)
class SplitRule:
    """Set how patients are divided into splits.

    Scans that show no chest belong to no split.

    Attributes:
      test_fraction, val_fraction: shares of patients. With lists, ``val_fraction`` of the training patients is drawn
        for val where no list names val.
      seed: without lists a hash of the patient and ``seed`` alone decides, so that new scans do not move old patients.
      lists: lines by split, each of which names a scan or a patient. A patient goes to the split that lists its id, to
        the first of test, val, train where several do, and to no split where none does (to train if no list for train
        is given).
      keep_partial: True to use scans that cover less than half of the field.
    """

    test_fraction: float = 0.1
    val_fraction: float = 0.0
    seed: int = 0
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep_partial: bool = False

    def __post_init__(self) -> None:
        """Check the shares. Raises UserError for shares that leave nothing for training."""
        for name, share in (("test_fraction", self.test_fraction), ("val_fraction", self.val_fraction)):
            if not 0 <= share < 1:
                raise UserError(f"{name} is {share}; allowed: 0 to below 1")
        if (both := self.test_fraction + self.val_fraction) >= 1:
            raise UserError(f"test_fraction + val_fraction is {both:g}; allowed: below 1")


def read_lists(paths: Mapping[str, Path | None]) -> dict[str, tuple[str, ...]]:
    """Read the lines of each split's list, without blank ones and comments (``#``).

    Raises UserError for a list that is absent or empty.
    """
    lists = {}
    for split, path in paths.items():
        if path is None:
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: the list for {split} cannot be read ({error})") from error
        lines = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
        if not lines:
            raise UserError(f"{path}: the list for {split} is empty; allowed: one scan or patient a line")
        lists[split] = lines
    return lists


def split_patients(patients: set[str], rule: SplitRule) -> tuple[dict[str, str], list[str]]:
    """Map each patient to ``train``, ``val``, ``test`` or ``""``; also return the changes made to the lists.

    No set that is asked for is left empty where there are patients enough: then the nearest one changes sides.
    """
    if not rule.lists:
        return _by_chance(patients, rule), []
    split, changes = _by_lists(patients, rule.lists)
    if rule.val_fraction and "val" not in rule.lists:
        training = {patient for patient, name in split.items() if name == "train"}
        drawn = _by_chance(training, replace(rule, test_fraction=0.0, lists={}))
        split |= drawn
        moved = sum(name == "val" for name in drawn.values())
        changes.append(f"val: {moved} of {len(training)} training patients drawn (val_fraction {rule.val_fraction:g})")
    return split, changes


def assign_splits(rows: list[Row], rule: SplitRule) -> tuple[list[Row], list[str]]:
    """Fill in ``split`` in all rows; also return the changes made to the lists.

    Scans that are not prepared, or that a remark bars, are in no split.
    """
    barred = {row.source: remarks.no_split(row.checks, rule.keep_partial) for row in rows if row.status == "ok"}
    known = {row.patient for row in rows if row.source in barred}
    patients = {row.patient for row in rows if barred.get(row.source) == ""}
    left = {
        split: tuple(line for line in lines if patient_in(line, known) not in known - patients)
        for split, lines in rule.lists.items()
    }
    split, changes = split_patients(patients, replace(rule, lists=left))
    if rule.lists:
        changes += [f"{source}: in no split, whatever the lists say ({why})" for source, why in barred.items() if why]
    return [replace(row, split=split[row.patient] if barred.get(row.source) == "" else "") for row in rows], changes


def check_lists(patients: set[str], rule: SplitRule) -> None:
    """Raise UserError for a list of which no line names any of ``patients``, such as the list of another data set."""
    for split, lines in rule.lists.items():
        if not any(patient_in(line, patients) for line in lines):
            compared = f"{lines[0]!r} against {min(patients, default='')!r}"
            raise UserError(f"list for {split}: none of its {len(lines)} lines names a patient found here ({compared})")


def _by_chance(patients: set[str], rule: SplitRule) -> dict[str, str]:
    draw = {p: int(hashlib.sha256(f"{rule.seed}:{p}".encode()).hexdigest()[:12], 16) / 16**12 for p in patients}
    ordered = sorted(patients, key=draw.__getitem__)
    tests = sum(draw[p] < rule.test_fraction for p in patients)
    if rule.test_fraction > 0 and len(patients) > 1:
        tests = min(max(tests, 1), len(patients) - 1)
    vals = sum(draw[p] < rule.test_fraction + rule.val_fraction for p in patients) - tests
    vals = min(max(vals, 1), max(len(patients) - tests - 1, 0)) if rule.val_fraction > 0 else 0
    return {p: ("test", "val")[place >= tests] if place < tests + vals else "train" for place, p in enumerate(ordered)}


def _by_lists(patients: set[str], lists: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, str], list[str]]:
    named: dict[str, dict[str, int]] = {}
    changes = []
    for split, lines in lists.items():
        found = [patient for line in lines if (patient := patient_in(line, patients))]
        for patient in found:
            named.setdefault(patient, {}).setdefault(split, 0)
            named[patient][split] += 1
        if len(found) < len(lines):
            changes.append(f"{split}: {len(lines) - len(found)} of {len(lines)} lines name no patient found here")
    rest = "" if "train" in lists else "train"
    placed = dict.fromkeys(patients, rest)
    for patient, sets in sorted(named.items()):
        kept = placed[patient] = next(name for name in STRICTEST_FIRST if name in sets)
        for left in sorted(set(sets) - {kept}):
            scans = "1 scan leaves" if sets[left] == 1 else f"{sets[left]} scans leave"
            changes.append(f"{patient}: in {' and '.join(sorted(sets, reverse=True))}; kept in {kept}, {scans} {left}")
    unnamed = sum(patient not in named for patient in patients)
    if unnamed:
        changes.append(f"{unnamed} patients are in no list: {'train' if rest else 'in no split'}")
    return placed, changes


def patient_in(line: str, patients: Iterable[str]) -> str | None:
    """Return the patient whose id a line contains between separators or its ends; the longest of several."""
    known = patients if isinstance(patients, (set, dict)) else set(patients)
    words = slug(line).split("-")
    for length in range(len(words), 0, -1):
        for start in range(len(words) - length + 1):
            if (name := "-".join(words[start : start + length])) in known:
                return name
    return None
