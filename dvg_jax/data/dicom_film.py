"""A projection X-ray stored as DICOM: its pixels as they are to be shown, and what its tags say."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset

from dvg_jax.errors import UserError

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
"""Projections, and the two that say nothing: secondary captures are often digitised films."""


def read_dicom(path: Path, max_pixels: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels ``(rows, columns)``, bright where dense, head first, and the fields of ``FilmFacts`` that tags give.

    Modality table, then window or VOI table (the first), then inversion where MONOCHROME1 or the presentation shape
    INVERSE asks for it. Raises UserError for another modality, several frames, no pixels, or too many.
    """
    film = pydicom.dcmread(path)
    modality = str(film.get("Modality", "")).strip()
    if modality and modality not in MODALITIES:
        raise UserError(f"DICOM modality is {modality}; allowed: {', '.join(MODALITIES)}")
    frames = int(film.get("NumberOfFrames", 1) or 1)
    if frames != 1:
        raise UserError(f"holds {frames} frames; allowed: one")
    rows, columns = int(film.get("Rows", 0)), int(film.get("Columns", 0))
    if "PixelData" not in film or not rows * columns:
        raise UserError("a DICOM object without pixels")
    if rows * columns > max_pixels:
        raise UserError(f"{columns} x {rows} pixels; allowed: {max_pixels:,} in all")
    repairs: list[str] = []
    values = _grey(_modality_values(film, path, repairs))
    values, window = _windowed(values, film, repairs)
    inverse = film.get("PresentationLUTShape", "") == "INVERSE"
    if film.PhotometricInterpretation == "MONOCHROME1" or inverse:
        values = -values
        repairs.append("inverted: " + ("PresentationLUTShape INVERSE" if inverse else "MONOCHROME1"))
    distance, patient = (_number(film.get(f"DistanceSourceTo{end}")) for end in ("Detector", "Patient"))
    return values, {
        "bits": int(film.BitsStored),
        "photometric": str(film.PhotometricInterpretation),
        "window": window,
        "pixel_mm": _pair(film.get("ImagerPixelSpacing")) or _pair(film.get("PixelSpacing")),
        "magnification": distance / patient if distance and patient and distance >= patient else None,
        "view": str(film.get("ViewPosition", "") or "").strip() or None,
        "laterality": str(film.get("ImageLaterality", "") or film.get("Laterality", "") or "").strip() or None,
        "modality": modality or None,
        "repairs": tuple(repairs),
    }


def _modality_values(film: Dataset, path: Path, repairs: list[str]) -> np.ndarray:
    try:
        return np.asarray(pydicom.pixels.apply_modality_lut(film.pixel_array, film))
    except (RuntimeError, NotImplementedError, AttributeError):
        # pydicom decodes baseline JPEG with Pillow and leaves other compressions to packages that are not ours; GDCM,
        # inside SimpleITK, knows them and applies the rescaling itself. A damaged file fails there too.
        SimpleITK.ProcessObject.GlobalWarningDisplayOff()
        values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        repairs.append("decoded by GDCM")
        return values[0] if values.shape[0] == 1 else values


def _grey(values: np.ndarray) -> np.ndarray:
    if values.ndim == 3 and values.shape[-1] == 3:
        return values @ np.array([0.299, 0.587, 0.114], np.float32)
    return values


def _windowed(values: np.ndarray, film: Dataset, repairs: list[str]) -> tuple[np.ndarray, str | None]:
    """Values as the first window or table maps them, and its name; untouched where it would leave nothing to see."""
    if film.get("VOILUTSequence"):
        name, values_in = "VOI table", np.rint(values).astype(np.int64)
    elif film.get("WindowCenter") not in (None, "") and film.get("WindowWidth") not in (None, ""):
        centre, width = (np.ravel(film[key].value)[0] for key in ("WindowCenter", "WindowWidth"))
        name, values_in = f"centre {float(centre):g} width {float(width):g}", values
    else:
        return values.astype(np.float32), None
    shown = np.asarray(pydicom.pixels.apply_voi_lut(values_in, film), np.float32)
    if shown.min() == shown.max():
        repairs.append(f"window not applied, it leaves one grey: {name}")
        return values.astype(np.float32), None
    return shown, name


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _pair(value: Any) -> tuple[float, float] | None:
    numbers = [_number(part) for part in value] if isinstance(value, pydicom.multival.MultiValue) else []
    row, column = numbers if len(numbers) == 2 else (None, None)
    return (row, column) if row and column else None
