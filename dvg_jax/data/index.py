"""What a folder holds: every file or DICOM series that is, or claims to be, a scan."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvg_jax.data import dicom, own, x2ct
from dvg_jax.data.manifest import patient_of
from dvg_jax.data.scans import IMAGES, Scan, load_scan, load_series
from dvg_jax.data.sizes import data_file
from dvg_jax.errors import UserError

Mapper = Callable[[Callable[[Path], Any], list[Path]], Iterable[Any]]


@dataclass(frozen=True)
class Candidate:
    """One scan of a folder: ``source`` is its path below the folder, with ``#UID`` where series share one.

    ``reason`` is why it cannot or need not be read; ``passed_over`` tells the latter.
    """

    source: str
    path: Path
    patient: str
    series: dicom.Series | None = None
    reason: str = ""
    passed_over: bool = False

    @property
    def uid(self) -> str:
        """The SeriesInstanceUID, empty for other formats."""
        return self.series.uid if self.series else ""

    def load(self) -> Scan:
        """Read it. Raises UserError as ``load_scan`` does."""
        return load_series(self.series, self.path) if self.series else load_scan(self.path)

    def stamp(self) -> str:
        """Changes whenever the source does: newest modification time and total bytes."""
        files = [item.path for item in self.series.slices] if self.series else [self.path, data_file(self.path)]
        stats = [file.stat() for file in files if file and file.is_file()]
        return f"{max((s.st_mtime_ns for s in stats), default=0)}-{sum(s.st_size for s in stats)}"


def find_scans(folder: str | Path, skip: Path | None = None, mapper: Mapper = map) -> list[Candidate]:
    """Every scan below ``folder`` but not below ``skip``, in order of ``source``.

    Image files go by their suffix, DICOM files by suffix or content, hidden ones are left out, links are followed.
    ``mapper`` reads the headers of DICOM files (a pool's ``map`` reads many at once). What is no scan but looks like
    one has a ``reason``. What this program wrote is passed over: prepared folders, ``skip``, rendered and reconstructed
    CTs. Raises UserError where ``folder`` itself is a prepared one.
    """
    folder = Path(folder)
    if own.holds_manifest(folder):
        raise UserError(f"{folder}: {own.PREPARED}; allowed: a folder of scans")
    images, slices, found = [], [], []
    for path, trouble in _walk(folder, skip):
        name = path.name.lower()
        if trouble:
            found.append(_candidate(folder, path, reason=trouble))
        elif name.endswith(IMAGES):
            images.append(_candidate(folder, path))
        elif dicom.looks_like_dicom(path):
            slices.append(path)
    found += images + _series(folder, slices, mapper)
    # A folder called scan.nii.gz is an error only where nothing in it is a scan.
    inside = [item.path for item in found if not item.path.is_dir() or item.series]
    kept = [item for item in found if not item.path.is_dir() or item.series or not _holds(item.path, inside)]
    return sorted(map(_without_own, kept), key=lambda item: item.source)


def _without_own(item: Candidate) -> Candidate:
    """The candidate, passed over if this program wrote it."""
    if item.reason in own.REASONS:
        return replace(item, patient="", passed_over=True)
    if item.reason:
        return item
    written = own.wrote_dicom(item.series.slices[0].path) if item.series else own.wrote_nifti(item.path)
    return replace(item, reason=own.WRITTEN, passed_over=True) if written else item


def choose_series(found: list[Candidate], refused: frozenset[str] = frozenset()) -> list[Candidate]:
    """One DICOM series a patient by ``Series.rank``; the others are passed over and say for which.

    Sources in ``refused`` turned out to be unreadable and are not chosen. Image files are all kept: somebody chose
    them already.
    """
    usable = defaultdict(list)
    for item in found:
        if item.series and not item.reason and item.source not in refused:
            usable[item.patient].append(item)
    best = {patient: min(items, key=_rank) for patient, items in usable.items()}
    chosen = []
    for item in found:
        if item in usable.get(item.patient, ()) and item is not best[item.patient]:
            first = best[item.patient].source
            reason = f"one series a patient: {first} is preferred (original, axial, most slices, thinnest, soft kernel)"
            item = replace(item, reason=reason, passed_over=True)
        chosen.append(item)
    return chosen


def _rank(item: Candidate) -> tuple:
    return item.series.rank if item.series else ()


def _series(folder: Path, files: list[Path], mapper: Mapper) -> list[Candidate]:
    headers: list[dicom.Slice] = []
    found = []
    for path, header in zip(files, mapper(dicom.read_header, files), strict=True):
        if isinstance(header, dicom.Slice):
            headers.append(header)
        elif header:
            found.append(_candidate(folder, path, reason=header))
    grouped = dicom.group(headers)
    places = [item.slices[0].path.parent for item in grouped]
    shared = {place for place, count in Counter(places).items() if count > 1}
    for series, place in zip(grouped, places, strict=True):
        source = _relative(folder, place) + (f"#{series.uid}" if place in shared else "")
        patient = series.patient or _first_folder(folder, place)
        passed = series.passed_over
        found.append(Candidate(source, place, patient_of(place, patient), series, series.reason, passed))
    return found


def _walk(folder: Path, skip: Path | None) -> Iterator[tuple[Path, str]]:
    """Files below ``folder``, each with what makes it unreadable; and folders called like files."""
    trouble: list[tuple[Path, str]] = []
    seen = {folder.resolve()}
    skipped = skip.resolve() if skip else None

    def fails(error: OSError) -> None:
        trouble.append((Path(error.filename), f"cannot be read ({error.strerror})"))

    for place, names, files in os.walk(folder, onerror=fails, followlinks=True):
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or path.resolve() in seen:
                names.remove(name)  # seen: links that lead round in a circle
                continue
            seen.add(path.resolve())
            ours = own.OUTPUT if path.resolve() == skipped else own.PREPARED if own.holds_manifest(path) else ""
            if ours:
                names.remove(name)
                trouble.append((path, ours))
                continue
            if name.lower().endswith(IMAGES):
                trouble.append((path, "a folder that holds no scan; allowed: a file"))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.is_file():
                yield path, ""
            elif name.lower().endswith(IMAGES + dicom.SUFFIXES):
                yield path, "not a file (a broken link, or a pipe)"
    yield from trouble


def _candidate(folder: Path, path: Path, reason: str = "") -> Candidate:
    stated = None
    if path.name.lower().endswith(x2ct.SUFFIXES):
        # X2CT's folders are called patient.date.series.n.n: the first part is the patient.
        stated = (path.parent.name if path.stem == "ct_xray_data" else path.stem).split(".")[0]
    return Candidate(_relative(folder, path), path, patient_of(path, stated), None, reason)


def _first_folder(folder: Path, place: Path) -> str:
    """Who a series without a PatientID belongs to: the first folder on the way to it."""
    parts = place.relative_to(folder).parts
    return parts[0] if parts else folder.resolve().name


def _relative(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _holds(folder: Path, paths: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for path in paths)
