"""Read X-ray films, fit them to the detector, and write views as pictures.

In arrays row 0 is the FOOT end (rows run along D); in files and pictures the head is at row 0. ``read_film``
and ``write_picture`` are the only places where that flip happens. Columns are never flipped here: column 0 is the
patient's right in a frontal film and anterior in a lateral one, as radiologists display them.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dvg_jax.ct.frame import HostImage, NewHostImage
from dvg_jax.data.films.dicom import is_bare_dicom, is_dicom, read_dicom
from dvg_jax.data.films.picture import RENDERED_KEY, WANTED, read_picture, what_it_is
from dvg_jax.errors import UserError
from dvg_jax.files.atomic import replacing

MIN_SIDE = 16
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class FilmFacts:
    """Hold the facts that a film's file states, and the repairs made while reading it.

    Attributes:
      file: name of the file, without folders.
      format: PNG, JPEG, TIFF, DICOM and so on, by content, not by name.
      rows, columns: size in pixels.
      bits: bits of a pixel, as stored.
      photometric: DICOM's photometric interpretation, or the picture's mode.
      window: the DICOM window or table that was applied, or None.
      pixel_mm: (row, column) spacing in mm, at the detector unless ``magnification`` is known; None if not stated.
      magnification: source-detector over source-patient distance; None if not stated.
      view: DICOM's ViewPosition, such as PA, AP, LL; None if not stated.
      laterality, modality: DICOM's; None if not stated.
      rendered: angle and field of a view that ``dvg_jax.data.drr`` rendered; None for a film.
      repairs: changes made while reading, one line each.
      warnings: contradictions in the file, one line each.
    """

    file: str
    format: str
    rows: int
    columns: int
    bits: int
    photometric: str
    window: str | None = None
    pixel_mm: tuple[float, float] | None = None
    magnification: float | None = None
    view: str | None = None
    laterality: str | None = None
    modality: str | None = None
    rendered: dict[str, float] | None = None
    repairs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return all fields as a JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Film:
    """Hold an X-ray as read: ``(h, w)`` in [0, 1], bright where dense, row 0 the foot end."""

    image: HostImage
    facts: FilmFacts


def read_film(path: str | Path) -> Film:
    """Read PNG, JPEG, TIFF (8 or 16 bit, grey) or DICOM; the content decides the format, not the name.

    Dense is bright, as films are displayed: bone white, air black. DICOM's MONOCHROME1 and TIFF's MINISWHITE are
    inverted, DICOM's window and EXIF rotation are applied, and transparency is laid on black. A phone's JPEG may
    contain several pictures: the first is read.

    Raises:
      UserError: the file is absent, no picture, a colour photo, or another file of several pictures; a DICOM object is
        no projection X-ray or lacks what decides its greys; values are constant or not finite; there are less than 16
        pixels a side or more than 100 million in all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such film")
    try:
        values, facts = _read(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:  # raised by the file system in plain words, or by Pillow for a damaged picture
        raise UserError(f"{path}: cannot be read ({error.strerror or _one_line(error)})") from error
    except Exception as error:  # Pillow's decoders raise a dozen types
        raise UserError(f"{path}: cannot be read, it is damaged or of an unusual kind; {WANTED}") from error
    if values.ndim != 2 or min(values.shape) < MIN_SIDE:
        raise UserError(f"{path}: shape {values.shape}; allowed: one image of at least {MIN_SIDE} pixels a side")
    rows, columns = values.shape
    return Film(_unit(values[::-1], str(path)), FilmFacts(path.name, rows=rows, columns=columns, **facts))


def fit_film(image: HostImage, shape: tuple[int, int], keep: float = 1.0) -> NewHostImage:
    """Crop the centre to the detector's proportions, resize without aliasing, and stretch to [0, 1].

    Args:
      image: film (h, w).
      shape: rows and columns of the detector.
      keep: share of the largest such crop that stays, above 0 to 1; the published code uses 0.8.

    Raises:
      UserError: ``keep`` is out of range, or the crop is constant.
    """
    if not 0 < keep <= 1:
        raise UserError(f"keep is {keep}; allowed: above 0 to 1")
    scale = keep * min(image.shape[0] / shape[0], image.shape[1] / shape[1])
    rows, columns = (max(1, round(n * scale)) for n in shape)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return _unit(resized(image[top : top + rows, left : left + columns], shape), "film")


def resized(
    image: HostImage, shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> NewHostImage:
    """Resize an image without aliasing.

    Args:
      image: (h, w).
      shape: rows and columns of the result.
      box: part to resize, (first column, first row, end column, end row) in pixels; None for all.
    """
    # Pillow widens its kernel when it shrinks a picture; a triangle, unlike a cubic, never overshoots.
    picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box))


def write_picture(
    path: str | Path, image: HostImage, bits: Literal[8, 16] = 8, rendered: dict[str, float] | None = None
) -> None:
    """Write a view as a grey picture with the head at the top, atomically.

    Args:
      path: PNG, TIFF or JPEG to write.
      image: (h, w) in [0, 1], row 0 the foot end.
      bits: bits of a pixel; JPEG allows 8 only.
      rendered: angle and field of a rendered view, stored in a PNG's text, so that ``reconstruct.py`` does not take it
        for a film; other formats drop them.
    """
    unsigned = np.uint16 if bits == 16 else np.uint8
    grey = np.rint(np.clip(np.asarray(image, np.float32)[::-1], 0, 1) * np.iinfo(unsigned).max).astype(unsigned)
    text = PngInfo()
    if rendered:
        text.add_text(RENDERED_KEY, json.dumps(rendered))
    with replacing(Path(path)) as temporary:
        Image.fromarray(grey).save(temporary, pnginfo=text)


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values and facts by the first reader that knows the content."""
    if not is_dicom(path):
        try:
            return read_picture(path, MAX_PIXELS)
        except UnidentifiedImageError:
            if not is_bare_dicom(path):
                raise UserError(what_it_is(path)) from None
    values, facts = read_dicom(path, MAX_PIXELS)
    return values, {"format": "DICOM", **facts}


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _unit(image: np.ndarray, name: str) -> HostImage:
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all() or high <= low:
        raise UserError(f"{name}: values from {low} to {high}; allowed: finite values that are not constant")
    return ((image - low) / (high - low)).astype(np.float32)
