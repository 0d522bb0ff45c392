"""X-ray pictures: read, fitted to the detector, and written for people.

In arrays row 0 is the FOOT end (rows run along D); in files and pictures the head is at row 0. ``read_film``
and ``write_picture`` are the only places where that flip happens. Columns are never flipped here: column 0 is the
patient's right in a frontal film and anterior in a lateral one, as both are hung.
"""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dvg_jax.data.dicom_film import read_dicom
from dvg_jax.data.files import replacing
from dvg_jax.data.frame import HostImage
from dvg_jax.errors import UserError

MIN_SIDE = 16
MAX_PIXELS = 100_000_000
PHOTO_CHROMA = 0.05
"""Mean difference of a picture's largest and smallest channel, as a share of white, from which it is a colour photo."""

RENDERED_KEY = "dvg_jax"
"""PNG text under which ``write_picture`` keeps how a view was rendered."""


@dataclass(frozen=True)
class FilmFacts:
    """What a film's file says of itself, and what was put right while reading it.

    Attributes:
      file: its name, without folders.
      format: PNG, JPEG, TIFF, DICOM and so on, by content, not by name.
      rows, columns: pixels.
      bits: a pixel's, as stored.
      photometric: DICOM's, or the picture's mode.
      window: the DICOM window or table that was applied, or None.
      pixel_mm: (row, column) spacing in mm, at the detector unless ``magnification`` is known; None if not stated.
      magnification: of the patient on the detector, source-detector over source-patient distance; None if not stated.
      view: DICOM's ViewPosition, such as PA, AP, LL; None if not stated.
      laterality, modality: DICOM's; None if not stated.
      rendered: how ``dvg_jax.data.drr`` rendered it; None for a film.
      repairs: what was changed while reading, one line each.
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

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Film:
    """An X-ray as read: ``(h, w)`` in [0, 1], bright where dense, row 0 the foot end."""

    image: HostImage
    facts: FilmFacts


def read_film(path: str | Path) -> Film:
    """Read PNG, JPEG, TIFF (8 or 16 bit, grey) or DICOM, whatever the file is called.

    Bright is dense: bone white, air black, as films are shown; DICOM's MONOCHROME1 is inverted and its window applied.
    EXIF rotation is applied, transparency laid on black. Raises UserError for a file that is absent or no picture, a
    colour photo, several pictures in one file, a DICOM object that is no projection X-ray, values that are constant or
    not finite, less than 16 pixels a side or more than 100 million in all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such film")
    try:
        values, facts = _read_dicom(path) if pydicom.misc.is_dicom(path) else _read_picture(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture, want PNG, JPEG, TIFF or DICOM") from error
    except Exception as error:  # decoders raise their own dozens of types for a damaged file
        raise UserError(f"{path}: cannot be read ({_one_line(error)})") from error
    if values.ndim != 2 or min(values.shape) < MIN_SIDE:
        raise UserError(f"{path}: shape {values.shape}, want one image of at least {MIN_SIDE} pixels a side")
    return Film(_unit(values[::-1], str(path)), facts)


def fit_film(image: HostImage, shape: tuple[int, int], keep: float = 1.0) -> HostImage:
    """Centre crop to the detector's proportions, resize without aliasing to ``shape``, stretch to [0, 1].

    ``keep`` is the share of the largest such crop that stays; the published code shows its networks 0.8.
    """
    if not 0 < keep <= 1:
        raise UserError(f"keep = {keep}, want 0 < keep <= 1")
    scale = keep * min(image.shape[0] / shape[0], image.shape[1] / shape[1])
    rows, columns = (max(1, round(n * scale)) for n in shape)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return _unit(resized(image[top : top + rows, left : left + columns], shape), "film")


def resized(
    image: HostImage, shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> HostImage:
    """To ``shape`` without aliasing; of ``box`` only, (first column, first row, end column, end row)."""
    # Pillow widens its kernel when it shrinks a picture; a triangle, unlike a cubic, never overshoots.
    picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box))


def write_picture(
    path: str | Path, image: HostImage, bits: Literal[8, 16] = 8, rendered: dict[str, float] | None = None
) -> None:
    """Write ``(h, w)`` in [0, 1], row 0 the foot end, as a grey picture with the head at the top, atomically.

    PNG and TIFF hold 16 bits, JPEG 8. ``rendered``, how a view was rendered, is kept in a PNG's text, so that
    ``reconstruct.py`` knows that it is no film; other formats drop it.
    """
    unsigned = np.uint16 if bits == 16 else np.uint8
    grey = np.rint(np.clip(np.asarray(image, np.float32)[::-1], 0, 1) * np.iinfo(unsigned).max).astype(unsigned)
    text = PngInfo()
    if rendered:
        text.add_text(RENDERED_KEY, json.dumps(rendered))
    with replacing(Path(path)) as temporary:
        Image.fromarray(grey).save(temporary, pnginfo=text)


def _read_picture(path: Path) -> tuple[np.ndarray, FilmFacts]:
    with warnings.catch_warnings():
        # Pillow warns a little below the size that is refused here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(path)
    with opened as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise UserError(f"{picture.width} x {picture.height} pixels; allowed: {MAX_PIXELS:,} in all")
        frames = getattr(picture, "n_frames", 1)
        if frames != 1:
            raise UserError(f"holds {frames} pictures; allowed: one")
        mode, form, exif, rendered = picture.mode, str(picture.format), picture.getexif(), _rendered(picture.info)
        turned = ImageOps.exif_transpose(picture)
        values, repairs = _grey(turned)
    if exif.get(0x0112, 1) != 1:
        repairs = ("turned as its EXIF orientation says", *repairs)
    bits = 16 if mode.startswith("I;16") else 32 if mode in ("I", "F") else 1 if mode == "1" else 8
    rows, columns = values.shape
    facts = FilmFacts(path.name, form, rows, columns, bits, mode, rendered=rendered, repairs=repairs)
    return values, facts


def _grey(picture: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    if picture.mode in ("1", "L") or picture.mode[0] in "IF":
        return np.asarray(picture, np.float32), ()
    repairs: tuple[str, ...] = ()
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        if clear.getchannel("A").getextrema() != (255, 255):
            repairs = ("transparency laid on black",)
        picture = Image.alpha_composite(Image.new("RGBA", clear.size, (0, 0, 0, 255)), clear)
    colours = np.asarray(picture.convert("RGB"))
    chroma = float(np.ptp(colours, axis=-1).mean()) / 255
    if chroma > PHOTO_CHROMA:
        raise UserError(f"a colour photo (mean chroma {chroma:.2f}); allowed: grey, chroma up to {PHOTO_CHROMA}")
    if chroma > 0:
        repairs = (*repairs, "faint colour turned to grey")
    return np.asarray(picture.convert("L"), np.float32), repairs


def _rendered(info: dict[Any, Any]) -> dict[str, float] | None:
    try:
        return {str(name): float(value) for name, value in json.loads(info[RENDERED_KEY]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _read_dicom(path: Path) -> tuple[np.ndarray, FilmFacts]:
    values, told = read_dicom(path, MAX_PIXELS)
    return values, FilmFacts(path.name, "DICOM", values.shape[0], values.shape[1], **told)


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _unit(image: np.ndarray, name: str) -> HostImage:
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all() or high <= low:
        raise UserError(f"{name}: values from {low} to {high}, want finite values that are not constant")
    return ((image - low) / (high - low)).astype(np.float32)
