"""List the scans of a folder: every file or DICOM series that is, or claims to be, one."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvg_jax.data.manifest import patient_of, tell_apart
from dvg_jax.data.scans import dicom, own, x2ct
from dvg_jax.data.scans.read import IMAGES, Scan, load_scan, load_series
from dvg_jax.data.scans.series import Series, group
from dvg_jax.errors import UserError, printable_line
from dvg_jax.files.formats import Format, format_of
from dvg_jax.files.headers import data_files

_MANY = 3
"""Least number of unreadable files in one folder that count as slices of one series."""

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Candidate:
    """Describe one scan of a folder.

    Attributes:
      source: path below the folder, with ``#UID`` where several series share a folder.
      path: the file, or the folder of a series.
      patient: the patient's id as one word.
      series: slices of a DICOM series; None for other formats.
      reason: why the scan cannot or need not be read; empty for a usable one.
      passed_over: True if it need not be read.
    """

    source: str
    path: Path
    patient: str
    series: Series | None = None
    reason: str = ""
    passed_over: bool = False

    @property
    def uid(self) -> str:
        """Return the SeriesInstanceUID; empty for other formats."""
        return self.series.uid if self.series else ""

    def load(self) -> Scan:
        """Read the scan. Raises UserError as ``load_scan`` does."""
        return load_series(self.series, self.path) if self.series else load_scan(self.path)

    def stamp(self) -> str:
        """Return a digest of names, sizes and modification times of all files, which changes when the source does."""
        digest = hashlib.sha256()
        for file in self._files():
            try:
                state = file.stat()
                digest.update(f"{file.name!r} {state.st_size} {state.st_mtime_ns}\n".encode())
            except OSError as error:
                digest.update(f"{file.name!r} {error.errno}\n".encode())
        return digest.hexdigest()[:16]

    def _files(self) -> list[Path]:
        if self.series:
            return sorted(item.path for item in self.series.slices)
        try:
            return [*data_files(self.path)] if self.path.is_file() else [self.path]
        except (UserError, OSError):
            return [self.path]


def find_scans(folder: str | Path, skip: Path | None = None, mapper: Mapper = map) -> list[Candidate]:
    """Find every scan below a folder, in order of ``source``.

    The content of a file decides its format; a file with a scan's name but other content gets a ``reason``. Hidden
    files are left out, links are followed. Files that this program wrote are passed over: prepared folders, ``skip``,
    rendered and reconstructed CTs.

    Args:
      folder: folder to search.
      skip: folder that is left out, such as the output.
      mapper: function like ``map`` that reads the headers of DICOM files, such as a pool's.

    Raises:
      UserError: ``folder`` itself is a prepared one.
    """
    folder = Path(folder)
    if own.holds_manifest(folder):
        raise UserError(f"{folder}: {own.PREPARED}; allowed: a folder of scans")
    slices, found, unreadable = [], [], []
    for path, trouble in _walk(folder, skip):
        if trouble:
            found.append(_candidate(folder, path, reason=trouble))
        elif path.name.lower().endswith(dicom.SUFFIXES):
            slices.append(path)  # its header is read later, in the only opening of the file
        else:
            try:
                role = _role(path)
            except OSError as error:
                if _may_be_a_scan(path):
                    unreadable.append((path, f"cannot be read ({error.strerror or error})"))
                continue
            if role == "slice":
                slices.append(path)
            elif role == "image":
                found.append(_candidate(folder, path))
    found += _series(folder, slices, unreadable, mapper)
    # A folder called scan.nii.gz is an error only where nothing in it is a scan.
    inside = [item.path for item in found if not item.path.is_dir() or item.series]
    kept = [item for item in found if not item.path.is_dir() or item.series or not _holds(item.path, inside)]
    return sorted(map(_without_own, kept), key=lambda item: item.source)


def _without_own(item: Candidate) -> Candidate:
    """Return the candidate, passed over if this program wrote it."""
    if item.reason in own.REASONS:
        return replace(item, patient="", passed_over=True)
    if item.reason:
        return item
    written = own.wrote_dicom(item.series.slices[0].path) if item.series else own.wrote_nifti(item.path)
    return replace(item, reason=own.WRITTEN, passed_over=True) if written else item


def _role(path: Path) -> str:
    """Return ``slice`` for DICOM, ``image`` for other scans and files with a scan's name. Raises OSError."""
    kind, name = format_of(path), path.name.lower()
    if kind is Format.DICOM:
        return "slice"
    if kind is Format.ANALYZE:
        return "image" if name.endswith((".hdr", *IMAGES)) else ""
    if kind is Format.HDF5 or kind is None:  # most HDF5 is something else
        return "image" if name.endswith(IMAGES) else ""
    return "image"


def _may_be_a_scan(path: Path) -> bool:
    """Judge an unreadable file by its name: slices often have no suffix, or a number for one."""
    return path.name.lower().endswith(IMAGES) or not path.suffix or path.suffix[1:].isdigit()


def choose_series(found: list[Candidate], refused: frozenset[str] = frozenset()) -> list[Candidate]:
    """Choose one DICOM series of each patient by ``Series.rank``; the others are passed over and name the chosen one.

    Sources in ``refused`` turned out to be unreadable and are not chosen. Image files are all used: somebody chose
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


def _series(folder: Path, files: list[Path], unreadable: list[tuple[Path, str]], mapper: Mapper) -> list[Candidate]:
    headers: list[dicom.Slice] = []
    found = []
    for path, header in zip(files, mapper(dicom.read_header, files), strict=True):
        if isinstance(header, dicom.Slice):
            headers.append(header)
        elif header == dicom.NOT_DICOM and _role(path) == "image":
            found.append(_candidate(folder, path))
        elif header:
            unreadable.append((path, header))
    grouped = group(headers)
    places = [item.slices[0].path.parent for item in grouped]
    shared = {place for place, count in Counter(places).items() if count > 1}
    stated = [item.patient or _first_folder(folder, place) for item, place in zip(grouped, places, strict=True)]
    words = tell_apart(stated)
    for series, place, patient in zip(grouped, places, stated, strict=True):
        source = _relative(folder, place) + (f"#{printable_line(series.uid)}" if place in shared else "")
        passed = series.passed_over
        found.append(Candidate(source, place, words[patient], series, series.reason, passed))
    return found + _unreadable(folder, unreadable)


def _unreadable(folder: Path, files: list[tuple[Path, str]]) -> list[Candidate]:
    """List files that cannot be read. Many of one folder are most likely a series, and get one row."""
    together: dict[Path, list[tuple[Path, str]]] = defaultdict(list)
    for path, reason in sorted(files):
        together[path.parent].append((path, reason))
    found = []
    for together_here in together.values():
        many = len(together_here) >= _MANY
        more = f"; {len(together_here) - 1} more files of this folder cannot be read either" if many else ""
        reported = together_here[:1] if many else together_here
        found += [_candidate(folder, path, reason=reason + more) for path, reason in reported]
    return found


def _walk(folder: Path, skip: Path | None) -> Iterator[tuple[Path, str]]:
    """Yield files below ``folder``, and folders named like files, each with the reason why it is unreadable."""
    trouble: list[tuple[Path, str]] = []
    seen = {folder.resolve()}
    skipped = skip.resolve() if skip else None

    def fails(error: OSError) -> None:
        trouble.append((Path(error.filename), f"cannot be read ({error.strerror})"))

    for place, names, files in os.walk(folder, onerror=fails, followlinks=True):
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or path.resolve() in seen:
                names.remove(name)  # seen before: a circle of links
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
    """Return the patient of a series without a PatientID: the first folder on the way to it."""
    parts = place.relative_to(folder).parts
    return parts[0] if parts else folder.resolve().name


def _relative(folder: Path, path: Path) -> str:
    return printable_line(path.relative_to(folder).as_posix())


def _holds(folder: Path, paths: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for path in paths)
