"""Read a projection X-ray stored as DICOM: its pixels, bright where dense, and its attributes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset

from dvg_jax.data.films.dicom_greys import film_greys
from dvg_jax.data.films.dicom_pixels import stored_pixels
from dvg_jax.errors import UserError
from dvg_jax.files.dicom import open_dicom
from dvg_jax.files.dicom_tags import brief, pair, positive, text, whole

MODALITIES = {
    "CR": "computed radiography",
    "DX": "digital radiography",
    "RG": "film",
    "RF": "fluoroscopy",
    "XA": "angiography",
    "PX": "panoramic",
    "OT": "other",
    "SC": "secondary capture",
}
"""Modalities of projections, and two unspecific ones: secondary captures are often digitised films."""
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""First bytes of a file without preamble: group 2, or group 8 in either byte order."""


def is_dicom(path: Path) -> bool:
    """Return True if the file's content is a DICOM object with a preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_bare_dicom(path: Path) -> bool:
    """Return True for a DICOM object without preamble. Other formats must have been ruled out before."""
    with path.open("rb") as file:
        if file.read(2) not in FIRST_GROUPS:
            return False
    try:
        with warnings.catch_warnings(action="ignore"):
            found = open_dicom(path, stop_before_pixels=True)
    except Exception:  # pydicom raises a dozen types for a file that is no DICOM
        return False
    return any(name in found for name in ("SOPClassUID", "Modality", "Rows"))


def read_dicom(path: Path, max_pixels: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return pixels ``(rows, columns)``, bright where dense, head first, and the ``FilmFacts`` fields that tags give.

    Raises UserError for another modality, several frames, no pixels or too many, and for attributes or pixels that
    cannot be used.
    """
    with warnings.catch_warnings(action="ignore"):  # pydicom warns about attributes that decide nothing here
        film = _opened(path)
        modality = text(film, "Modality")
        if modality and modality not in MODALITIES:
            raise UserError(f"DICOM modality is {brief(modality)}; allowed: {', '.join(MODALITIES)}")
        if text(film, "NumberOfFrames"):
            frames = whole(film, "NumberOfFrames", 1, 1_000_000)
            if frames != 1:
                raise UserError(f"holds {frames} frames; allowed: one")
        stored = stored_pixels(film, max_pixels)
        greys = film_greys(film, stored)
        repairs = ["decoded by GDCM", *greys.repairs] if stored.by == "GDCM" else greys.repairs
        spacing = pair(film, "ImagerPixelSpacing", repairs) or pair(film, "PixelSpacing", repairs)
    distance, patient = (positive(film, f"DistanceSourceTo{end}") for end in ("Detector", "Patient"))
    return greys.values, {
        "bits": stored.bits,
        "photometric": stored.photometric,
        "window": greys.window,
        "pixel_mm": spacing,
        "magnification": distance / patient if distance and patient and distance >= patient else None,
        "view": text(film, "ViewPosition") or None,
        "laterality": text(film, "ImageLaterality") or text(film, "Laterality") or None,
        "modality": modality or None,
        "repairs": tuple(repairs),
        "warnings": tuple(greys.warnings),
    }


def _opened(path: Path) -> FileDataset:
    try:
        return open_dicom(path)
    except (OSError, UserError):
        raise
    except Exception as error:  # pydicom raises a dozen types for a damaged file
        raise UserError("a damaged DICOM object: its attributes cannot be read") from error
