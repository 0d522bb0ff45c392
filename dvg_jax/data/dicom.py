"""CT series stored as DICOM, one file a slice."""

from pathlib import Path

import numpy as np
import SimpleITK

from dvg_jax.errors import UserError

_SUFFIXES = (".dcm", ".dicom", ".ima")
_POSITION, _DIRECTION, _PATIENT = "0020|0032", "0020|0037", "0010|0020"
_GAP_TOLERANCE = 0.1


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files: by suffix, or by the mark after a file's 128-byte preamble."""
    return folder.is_dir() and any(_is_dicom(path) for path in sorted(folder.iterdir()) if path.is_file())


def read_series(folder: Path, min_slices: int) -> tuple[SimpleITK.Image, str | None]:
    """Read a folder's one series of at least ``min_slices`` files: the image in HU, and the patient's id.

    Shorter series beside it (localisers) are passed over. Raises UserError where there is none or more than
    one, or where slices are missing.
    """
    # ITK warns on stderr of uneven slices; _check_gaps says it in the project's own way.
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    reader = SimpleITK.ImageSeriesReader()
    files = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))}
    volumes = [names for names in files.values() if len(names) >= min_slices]
    if len(volumes) != 1:
        lengths = sorted(len(names) for names in files.values())
        raise UserError(f"{folder}: {len(volumes)} DICOM series of {min_slices} or more slices ({lengths}), want one")
    reader.SetFileNames(volumes[0])
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    _check_gaps(reader, len(volumes[0]), folder)
    patient = reader.GetMetaData(0, _PATIENT).strip() if reader.HasMetaDataKey(0, _PATIENT) else ""
    return image, patient or None


def _check_gaps(reader: SimpleITK.ImageSeriesReader, slices: int, folder: Path) -> None:
    if not all(reader.HasMetaDataKey(i, key) for i in range(slices) for key in (_POSITION, _DIRECTION)):
        raise UserError(f"{folder}: slices state no position and direction, so left and right are unknown")
    points = np.array([_numbers(reader.GetMetaData(i, _POSITION)) for i in range(slices)])
    row, column = np.reshape(_numbers(reader.GetMetaData(0, _DIRECTION)), (2, 3))
    steps = np.diff(points @ np.cross(row, column))
    usual = np.median(steps)
    odd = np.flatnonzero(abs(steps - usual) > _GAP_TOLERANCE * abs(usual))
    if usual == 0 or odd.size:
        where = f"slice {odd[0] + 1} is followed by a step of {steps[odd[0]]:.2f} mm, " if odd.size else ""
        raise UserError(f"{folder}: {where}usual step {usual:.2f} mm, want even steps (missing slices?)")


def _numbers(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.split("\\")])


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in _SUFFIXES:
        return True
    # Series are also exported as 000001, IM0001 or 1.2.840...: no suffix that says what they are.
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
