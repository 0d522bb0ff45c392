"""The list of prepared scans: who, from which file, in which split, and what went wrong."""

import csv
import hashlib
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from dvg_jax.data.files import replacing
from dvg_jax.errors import UserError

NAME = "manifest.csv"
SPLITS = ("train", "test")

_VISIT = re.compile(r"(?:__.*|[_-](?:(?:ses|scan|study|series|visit|run|acq|part|recon|ct)[_-]?\d*|\d+mm))+$", re.I)


@dataclass(frozen=True)
class Row:
    """One scan. ``file`` is relative to the manifest, ``source`` to the input folder; ``reason`` says why it
    failed.

    ``spacing`` (mm along D, H, W) and ``orientation`` are the source's; ``stamp`` and ``settings`` tell
    whether the prepared file still belongs to that source and to the options in use.
    """

    patient: str
    file: str
    source: str
    spacing: str
    orientation: str
    split: str
    status: str
    reason: str
    stamp: str
    settings: str


def patient_of(source: Path, stated: str | None = None) -> str:
    """The patient a scan belongs to, as one lower-case word with dashes.

    The DICOM PatientID where there is one; else the file's name without its suffix and without a trailing
    visit mark (``__anything``, or ``_scan2``, ``-ses-01``, ``_ct``, ``_8mm`` and the like), so that
    ``p7_scan1`` and ``p7_scan2`` are one patient. A name without a digit (``ct.nii.gz``) says nothing: then
    the folder's name.
    """
    stem = source.name.split(".nii")[0] if ".nii" in source.name else source.stem if source.suffix else source.name
    name = _VISIT.sub("", stem)
    if not any(c.isdigit() for c in name):
        name = source.parent.name or stem
    return re.sub(r"[^a-z0-9]+", "-", (stated or name).lower()).strip("-") or "unnamed"


def split_patients(patients: set[str], test_fraction: float, seed: int) -> dict[str, str]:
    """Patient -> ``train`` or ``test``, by a hash of the id and the seed alone: new scans do not move old
    patients.

    Where chance leaves one side empty and there are two patients or more, the nearest patient changes sides.
    """
    if not 0 <= test_fraction < 1:
        raise UserError(f"test_fraction = {test_fraction}, want 0 <= test_fraction < 1")
    draw = {p: int(hashlib.sha256(f"{seed}:{p}".encode()).hexdigest()[:12], 16) / 16**12 for p in patients}
    ordered = sorted(patients, key=draw.__getitem__)
    tests = sum(draw[p] < test_fraction for p in patients)
    if test_fraction > 0 and len(patients) > 1:
        tests = min(max(tests, 1), len(patients) - 1)
    return {p: "test" if place < tests else "train" for place, p in enumerate(ordered)}


def assign_splits(rows: list[Row], test_fraction: float, seed: int) -> list[Row]:
    """Rows with ``split`` filled in; scans that failed belong to none."""
    split = split_patients({row.patient for row in rows if row.status == "ok"}, test_fraction, seed)
    return [replace(row, split=split[row.patient] if row.status == "ok" else "") for row in rows]


def write_manifest(folder: Path, rows: list[Row]) -> None:
    """Write ``manifest.csv`` into ``folder``, atomically."""
    with replacing(folder / NAME) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows(asdict(row) for row in rows)


def read_manifest(folder: Path) -> list[Row]:
    """The rows of ``folder/manifest.csv``; UserError where it is absent or not a manifest."""
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{path}: absent; prepare scans with python -m dvg_jax.data.prepare --output {folder}")
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        names = [field.name for field in fields(Row)]
        if table.fieldnames != names:
            raise UserError(f"{path}: columns {table.fieldnames}, want {names}")
        return [Row(**line) for line in table]
