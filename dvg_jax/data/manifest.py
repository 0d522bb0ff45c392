"""Define the manifest, a CSV list of prepared scans: patient, source file, split, and what went wrong."""

import csv
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PureWindowsPath

from dvg_jax.errors import UserError, printable_line
from dvg_jax.files.atomic import replacing
from dvg_jax.files.cells import from_cell, to_cells

NAME = "manifest.csv"

SPLITS = ("train", "test", "val")
"""Names of the splits: every prepared scan is in one or in none. Phantoms have the same (``data/sources.py``)."""

_MOST_BYTES = 120

_LATER = {"series", "checks", "input"}
"""Columns that manifests of earlier versions lack."""

_VISIT = re.compile(r"(?:__.*|[_-](?:(?:ses|scan|study|series|visit|run|acq|part|recon|ct)[_-]?\d*|\d+mm))+$", re.I)


@dataclass(frozen=True)
class Row:
    """Describe one scan by one line of the manifest; controls in what its files state are escaped.

    Attributes:
      patient: the patient's id as one word.
      series: the DICOM SeriesInstanceUID; empty for other formats.
      file: the prepared file, relative to the manifest.
      source: the scan, relative to the input folder.
      spacing: the source's voxel size in mm along D, H, W.
      orientation: the source's anatomical directions, such as ``LPS``.
      split: one of ``SPLITS``, or empty.
      checks: remarks for a reader of the data, separated by ``"; "``.
      status: ``ok``, ``refused`` or ``passed over``.
      reason: why the status is not ``ok``.
      stamp, settings: digest of the source and options; a prepared file that has others is out of date.
      input: path of the input folder.
    """

    patient: str
    series: str
    file: str
    source: str
    spacing: str
    orientation: str
    split: str
    checks: str
    status: str
    reason: str
    stamp: str
    settings: str
    input: str = ""

    def __post_init__(self) -> None:
        """Escape what no terminal, spreadsheet or text editor may meet."""
        for field in fields(self):
            object.__setattr__(self, field.name, printable_line(getattr(self, field.name)))


def slug(text: str) -> str:
    """Turn a patient's id into one lower-case word: letters and digits of any script, with dashes between.

    Unicode forms of one letter are equal (``Ａ`` and ``A``, ``é`` as one sign or two). Bytes of a file's name that are
    not UTF-8 count as Latin-1.
    """
    return re.sub("-+", "-", "".join(c if _is_of_a_word(c) else "-" for c in _alike(text))).strip("-")


def tell_apart(stated: Iterable[str]) -> dict[str, str]:
    """Map each patient's stated id to a word; no two ids share one.

    The word is the ``slug``. Ids that differ only in what the slug drops (``A/1``, ``A-1``, ``***``) get a digest at
    its end.
    """
    alike: dict[str, set[str]] = defaultdict(set)
    ids = set(stated)
    for name in ids:
        alike[slug(name)].add(_alike(name))
    words = {}
    for name in ids:
        word = slug(name)
        digest = hashlib.sha256(_alike(name).encode()).hexdigest()[:6]
        words[name] = word if word and len(alike[word]) == 1 else f"{word or 'patient'}-{digest}"
    return words


def file_word(patient: str) -> str:
    """Return the patient's part of a file's name, cut to the bytes that file systems allow."""
    return patient.encode()[:_MOST_BYTES].decode(errors="ignore")


def _alike(text: str) -> str:
    latin = "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", latin).casefold())
    return " ".join("".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Cs")).split())


def _is_of_a_word(character: str) -> bool:
    """Return True for a letter, a digit or one of the marks that some scripts write as separate signs."""
    return unicodedata.category(character)[0] in "LNM"


def patient_of(source: Path, stated: str | None = None) -> str:
    """Return the patient a scan belongs to, as one lower-case word with dashes.

    The word is the DICOM PatientID where there is one; else the file's name without its suffix and without a trailing
    visit mark (``__anything``, or ``_scan2``, ``-ses-01``, ``_ct``, ``_8mm`` and the like), so that
    ``p7_scan1`` and ``p7_scan2`` are one patient. A name without a digit (``ct.nii.gz``) says nothing: then
    the folder's name is taken.
    """
    stem = source.name.split(".nii")[0] if ".nii" in source.name else source.stem if source.suffix else source.name
    name = _VISIT.sub("", stem)
    if not any(c.isdigit() for c in name):
        name = source.parent.name or stem
    return slug(stated or name) or "unnamed"


def write_manifest(folder: Path, rows: list[Row]) -> None:
    """Write ``manifest.csv`` into ``folder``, atomically."""
    with (
        replacing(folder / NAME) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows(to_cells(asdict(row)) for row in rows)


def read_manifest(folder: Path) -> list[Row]:
    """Return the rows of ``folder/manifest.csv``; columns that an earlier version did not write are empty.

    Raises UserError where the file is absent, is not a manifest, or names a file outside ``folder``.
    """
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{path}: absent; prepare scans with python -m dvg_jax.data.prepare --output {folder}")
    names = {field.name for field in fields(Row)}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            columns = set(table.fieldnames or ())
            if not names - _LATER <= columns <= names:
                raise UserError(f"{path}: columns {table.fieldnames}; allowed: {sorted(names)}")
            return [_row(line, path, table.line_num) for line in table]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error


def _row(line: dict[str, str], path: Path, number: int) -> Row:
    if None in line or None in line.values():
        raise UserError(f"{path}: line {number} has another number of columns; allowed: as many as in its head")
    row = Row(**(dict.fromkeys(_LATER, "") | {name: from_cell(cell) for name, cell in line.items()}))
    # Windows' rules know both kinds of separator and drives.
    named = PureWindowsPath(row.file)
    if named.is_absolute() or named.drive or named.root or ".." in named.parts:
        raise UserError(f"{path}: line {number} has file {row.file!r}; allowed: a name inside {path.parent}")
    if row.split not in ("", *SPLITS):
        raise UserError(f"{path}: line {number} has split {row.split!r}; allowed: {', '.join(SPLITS)} or nothing")
    return row
