"""Recognise files that this program wrote: its own output must never be prepared as if it were a scan.

A folder that ``dvg_jax.data.prepare`` wrote has a manifest. A CT that ``drr`` or ``reconstruct.py`` wrote, or a
prepared one that was moved out of its folder, has a note in its header.
"""

import csv
from pathlib import Path

from dvg_jax.ct.nifti import note_of
from dvg_jax.data.manifest import NAME
from dvg_jax.files.dicom import open_dicom

MARK = "dvg_jax"
PREPARED_NOTE = f"{MARK}.data.prepare"
"""Note in the header of a prepared scan."""

PREPARED = f"a folder that dvg_jax.data.prepare wrote (it has its {NAME}), never input"
OUTPUT = "the output of this run, never input"
WRITTEN = "written by dvg_jax, never input"
REASONS = (PREPARED, OUTPUT, WRITTEN)
"""Reasons for which a readable file may be passed over."""

_SINCE_THE_FIRST = {"patient", "file", "source", "split", "status", "stamp", "settings"}
"""Columns of the manifests of all versions; no other list has all of them."""


def holds_manifest(folder: Path) -> bool:
    """Return True if ``dvg_jax.data.prepare`` wrote into this folder; a manifest.csv with other columns is foreign."""
    try:
        with (folder / NAME).open(newline="", encoding="utf-8-sig") as file:
            return set(next(csv.reader(file), ())) >= _SINCE_THE_FIRST
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def wrote_nifti(path: Path) -> bool:
    """Return True if the note in a NIfTI file's header is ours; False for other files and unreadable ones."""
    return MARK in (note_of(path) or "")


def wrote_dicom(path: Path) -> bool:
    """Return True if a DICOM file names this program as manufacturer; False for other or unreadable files."""
    try:
        header = open_dicom(path, stop_before_pixels=True, specific_tags=["Manufacturer"])
        return str(header.get("Manufacturer") or "").strip() == MARK
    except Exception:  # damaged headers raise dozens of types; they are refused where they are read
        return False
