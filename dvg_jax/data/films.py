"""X-ray pictures: read, fitted to the detector, and written for people.

In arrays row 0 is the FOOT end (rows run along D); in files and pictures the head is at row 0. ``read_film``
and ``write_picture`` are the only places where that flip happens. Columns are never flipped: column 0 is the
patient's right in a frontal film and anterior in a lateral one, as both are hung.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError

from dvg_jax.data.files import replacing
from dvg_jax.data.frame import HostImage
from dvg_jax.errors import UserError

MIN_SIDE = 16


def read_film(path: str | Path) -> HostImage:
    """Read PNG, JPEG, TIFF (8 or 16 bit, colour turned to grey) or DICOM as ``(h, w)`` in [0, 1], row 0 the
    foot end.

    Bright is dense: bone white, air black, as films are shown; DICOM's MONOCHROME1 is inverted. Raises
    UserError for a file that is absent, no picture, constant, or below 16 pixels a side.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such film")
    try:
        picture = _read_dicom(path) if pydicom.misc.is_dicom(path) else _read_picture(path)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture, want PNG, JPEG, TIFF or DICOM") from error
    except Exception as error:  # decoders raise their own dozens of types for a damaged file
        raise UserError(f"{path}: cannot be read ({error})") from error
    if picture.ndim != 2 or min(picture.shape) < MIN_SIDE:
        raise UserError(f"{path}: shape {picture.shape}, want one image of at least {MIN_SIDE} pixels a side")
    return _unit(picture[::-1], str(path))


def fit_film(image: HostImage, shape: tuple[int, int], keep: float = 1.0) -> HostImage:
    """Centre crop to the detector's proportions, resize without aliasing to ``shape``, stretch to [0, 1].

    ``keep`` is the share of the largest such crop that stays; the published code shows its networks 0.8.
    """
    if not 0 < keep <= 1:
        raise UserError(f"keep = {keep}, want 0 < keep <= 1")
    scale = keep * min(image.shape[0] / shape[0], image.shape[1] / shape[1])
    rows, columns = (max(1, round(n * scale)) for n in shape)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    crop = np.ascontiguousarray(image[top : top + rows, left : left + columns], np.float32)
    # Pillow widens its kernel when it shrinks a picture; a triangle, unlike a cubic, never overshoots.
    small = Image.fromarray(crop).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return _unit(np.asarray(small), "film")


def write_picture(path: str | Path, image: HostImage, bits: Literal[8, 16] = 8) -> None:
    """Write ``(h, w)`` in [0, 1], row 0 the foot end, as a grey picture with the head at the top, atomically.

    PNG and TIFF hold 16 bits, JPEG 8.
    """
    unsigned = np.uint16 if bits == 16 else np.uint8
    grey = np.rint(np.clip(np.asarray(image, np.float32)[::-1], 0, 1) * np.iinfo(unsigned).max).astype(unsigned)
    with replacing(Path(path)) as temporary:
        Image.fromarray(grey).save(temporary)


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        single = picture.mode == "1" or picture.mode == "L" or picture.mode[0] in "IF"
        return np.asarray(picture if single else picture.convert("RGB").convert("L"), np.float32)


def _read_dicom(path: Path) -> np.ndarray:
    film = pydicom.dcmread(path)
    values = np.asarray(pydicom.pixels.apply_modality_lut(film.pixel_array, film), np.float32)
    if film.get("SamplesPerPixel", 1) == 3:
        values = values @ np.array([0.299, 0.587, 0.114], np.float32)
    return -values if film.PhotometricInterpretation == "MONOCHROME1" else values


def _unit(image: np.ndarray, name: str) -> HostImage:
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all() or high <= low:
        raise UserError(f"{name}: values from {low} to {high}, want finite values that are not constant")
    return ((image - low) / (high - low)).astype(np.float32)
