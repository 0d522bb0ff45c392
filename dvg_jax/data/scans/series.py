"""Group CT slices into volumes, independent of their files and UIDs.

Slices --group--> Series (foot to head, or a reason) --slice_pixels.read_slices--> array
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from dvg_jax.data.scans.dicom import Slice, is_sharp
from dvg_jax.data.scans.limits import MAX_VOXELS
from dvg_jax.data.scans.slice_pixels import same_pixels

MIN_SLICES = 8
"""Least number of voxels along an axis of a volume; fewer are a localiser or a fragment."""

_GAP_TOLERANCE = 0.1
_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 1e-3
_AXIAL = 0.8
_WORD = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


@dataclass(frozen=True)
class Series:
    """Hold the slices of one series from foot to head (or along their normal).

    Attributes:
      uid: SeriesInstanceUID.
      patient: PatientID.
      slices: slices in order.
      reason: why the series is no volume; empty for a volume.
      passed_over: True for series that nobody expects to be prepared (localisers, other modalities).
      notes: what was left out of a good series.
    """

    uid: str
    patient: str
    slices: tuple[Slice, ...]
    reason: str = ""
    passed_over: bool = False
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple:
        """Return a key that sorts a patient's series, best first.

        Original comes before derived, axial before other planes, then most slices, thinnest slices, a soft kernel
        before a sharp one, and the UID.
        """
        first = self.slices[0]
        axial = abs(_normal(first)[2]) > _AXIAL
        thickness = round(float(np.median(np.abs(np.diff(_along(self.slices))))), 2)
        return (not first.original, not axial, -len(self.slices), thickness, is_sharp(first.kernel), self.uid)


def group(slices: Iterable[Slice]) -> list[Series]:
    """Group slices into checked series by their UID, wherever their files lie; in order of UID.

    Slices with a UID each make one series where study, frame of reference, grid and kernel agree.
    """
    members: dict[str, list[Slice]] = defaultdict(list)
    for item in slices:
        members[item.series].append(item)
    return [_checked(uid, items) for uid, items in sorted(_joined(members).items())]


def _joined(members: dict[str, list[Slice]]) -> dict[str, list[Slice]]:
    """Join single slices of one volume under the least of their UIDs; return all members."""
    single = defaultdict(list)
    for first, *more in members.values():
        if not more and not first.not_a_slice and first.place[0]:
            single[first.patient, first.place, first.kernel].append(first)
    joined = dict(members)
    for part in (part for slices in single.values() for part in _alike(slices)):
        if len(part) >= MIN_SLICES:
            for item in part:
                del joined[item.series]
            joined[min(item.series for item in part)] = part
    return joined


def _checked(uid: str, members: list[Slice]) -> Series:
    """Order the slices and find the reason why a series is unusable."""
    patient = next((item.patient for item in members if item.patient), "")
    good = [item for item in members if not item.not_a_slice]
    reasons = Counter(item.not_a_slice for item in members if item.not_a_slice)
    cut = next((reason for reason in sorted(reasons) if "cut off" in reason), "")
    if not good or cut:
        other = ("modality", "localiser", "secondary capture", "no pixels")
        passed = not cut and all(reason.startswith(other) for reason in reasons)
        return Series(uid, patient, tuple(members), cut or _few(reasons), passed_over=passed)
    notes = [f"{len(members) - len(good)} files left out: {_few(reasons)}"] if reasons else []
    if (uids := len({item.series for item in good})) > 1:
        notes.append(f"{uids} slices with a SeriesInstanceUID of their own are one volume")
    unique = {item.instance: item for item in sorted(good, key=lambda item: item.path, reverse=True)}
    if len(unique) < len(good):
        notes.append(f"{len(good) - len(unique)} copies of slices left out")
    series = _ordered(Series(uid, patient, tuple(unique.values()), notes=tuple(notes)))
    return replace(series, reason=f"{series.reason}; {notes[0]}") if series.reason and reasons else series


def _few(reasons: Counter[str]) -> str:
    """List one reason of each kind, with the number of files that have another value of it."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for reason in sorted(reasons):
        kinds[reason.split(" is ")[0]].append(reason)
    return "; ".join(first + (f" ({len(more)} more files like it)" if more else "") for first, *more in kinds.values())


def _ordered(series: Series) -> Series:
    if differing := _different_words(series.slices):
        return replace(series, reason=differing)
    voxels = max(math.prod(map(int, item.grid[8:])) for item in series.slices) * len(series.slices)
    if voxels > MAX_VOXELS:
        return replace(series, reason=f"{voxels} voxels in {len(series.slices)} slices; allowed: {MAX_VOXELS}")
    alike = _alike(series.slices)
    small = [part for part in alike[1:] if len(part) < MIN_SLICES]
    if len(alike) - len(small) > 1:
        sizes = " and ".join(str(len(part)) for part in alike)
        reason = f"{sizes} slices of different orientation, spacing or matrix; allowed: one volume"
        return replace(series, reason=reason)
    notes = series.notes
    if small:
        notes = (*notes, f"{sum(map(len, small))} slices of another orientation, spacing or matrix left out")
    ordered = sorted(alike[0], key=lambda item: (float(np.dot(_normal(item), item.position)), item.path))
    single = _without_twins(ordered)
    if len(single) < len(ordered):
        notes = (*notes, f"{len(ordered) - len(single)} slices that were sent twice left out")
    series = replace(series, slices=tuple(single), notes=notes)
    if len(single) < MIN_SLICES:
        return replace(series, reason=f"{len(single)} slices; allowed: {MIN_SLICES} or more (a fragment, a localiser?)")
    return replace(series, reason=_uneven(series.slices))


def _different_words(slices: tuple[Slice, ...]) -> str:
    """Return which attribute of the pixels' storage differs within a series; empty where all are alike."""
    words = [item.word for item in slices if item.word]
    for name, values in zip(_WORD, map(set, zip(*words, strict=True)), strict=False):
        if len(values) > 1:
            return f"{name} is {' and '.join(map(str, sorted(values)))} in one series; allowed: one value for all"
    return ""


def _without_twins(ordered: list[Slice]) -> list[Slice]:
    """Drop slices that lie where the one before lies and show the same; comparing needs their pixels."""
    kept = ordered[:1]
    for item in ordered[1:]:
        step = float(np.dot(_normal(item), np.subtract(item.position, kept[-1].position)))
        if step >= _SAME_PLACE_MM or not same_pixels(kept[-1].path, item.path):
            kept.append(item)
    return kept


def _alike(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Group slices of equal direction, spacing and matrix; the largest group first."""
    parts: list[list[Slice]] = []
    for item in slices:
        for part in parts:
            if np.allclose(item.grid, part[0].grid, rtol=0, atol=_SAME_DIRECTION):
                part.append(item)
                break
        else:
            parts.append([item])
    return sorted(parts, key=len, reverse=True)


def _uneven(slices: tuple[Slice, ...]) -> str:
    """Return where slices are missing, double, or not in one line; empty where they are even."""
    points = np.array([item.position for item in slices])
    steps = np.diff(_along(slices))
    usual = float(np.median(steps))
    double = np.flatnonzero(steps < _SAME_PLACE_MM)
    if double.size:
        names = f"{slices[double[0]].path.name} and {slices[double[0] + 1].path.name}"
        return f"{double.size} slices lie where another lies ({names}) and differ from it; allowed: one slice a place"
    odd = np.flatnonzero(abs(steps - usual) > _GAP_TOLERANCE * usual)
    if odd.size:
        where = f"slice {odd[0] + 1} is followed by a step of {steps[odd[0]]:.2f} mm"
        return f"{where}, usual step {usual:.2f} mm; allowed: even steps (missing slices?)"
    line = points[0] + np.linspace(0, 1, len(points))[:, None] * (points[-1] - points[0])
    aside = float(np.linalg.norm(points - line, axis=1).max())
    return f"slices lie up to {aside:.1f} mm beside one line; allowed: a straight stack" if aside > usual else ""


def _normal(item: Slice) -> np.ndarray:
    return np.cross(item.grid[:3], item.grid[3:6])


def _along(slices: tuple[Slice, ...]) -> np.ndarray:
    return np.array([item.position for item in slices]) @ _normal(slices[0])
