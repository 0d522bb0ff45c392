"""Read pictures of films, PNG, JPEG or TIFF: their values, bright where dense."""

import io
import json
import struct
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from dvg_jax.data.films.colour import grey_of
from dvg_jax.data.films.tiff import check_strips
from dvg_jax.errors import UserError

RENDERED_KEY = "dvg_jax"
"""``write_picture`` records how a view was rendered in the PNG text with this key."""

FORMATS = ("PNG", "JPEG", "TIFF")
"""Only these formats are read. Pillow knows more, which damaged files would reach too; its EPS runs a program."""
WANTED = "allowed: PNG, JPEG, TIFF or DICOM"

STARTS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF8": "GIF",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"NES_": "MetaImage",
    b"NRRD": "NRRD",
}
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"hevc": "HEIC", b"avif": "AVIF"}

_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_LONG = 4


def read_picture(path: Path, max_pixels: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values ``(rows, columns)``, bright where dense, head first, and the ``FilmFacts`` fields of a picture.

    Raises UserError for too many pixels, several pictures in one file and colour photos; UnidentifiedImageError for a
    file that is no picture.
    """
    repairs: list[str] = []
    source, white_is_zero = _source(path)
    # Pillow warns of sizes below the limit and of odd metadata.
    with warnings.catch_warnings(action="ignore"), _opened(source, max_pixels) as picture:
        if picture.width * picture.height > max_pixels:
            raise UserError(f"{picture.width} x {picture.height} pixels; allowed: {max_pixels:,} in all")
        _check_frames(picture, repairs)
        _check_whole(picture, source)
        mode, form, rendered = picture.mode, str(picture.format), _rendered(picture.info)
        orientation = picture.getexif().get(0x0112, 1)
        values = _values(ImageOps.exif_transpose(picture), white_is_zero, repairs)
    if orientation != 1:
        repairs.insert(0, "turned as its EXIF orientation says")
    bits = 16 if mode.startswith("I;16") else 32 if mode in ("I", "F") else 1 if mode == "1" else 8
    return values, {
        "format": form,
        "bits": bits,
        "photometric": mode,
        "rendered": rendered,
        "repairs": tuple(repairs),
    }


def what_it_is(path: Path) -> str:
    """Return why a file that no reader accepted is not a film, judged by its first bytes and never by its name."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return f"an empty file; {WANTED}"
    kind = next((name for start, name in STARTS.items() if head.startswith(start)), None)
    kind = BRANDS.get(head[8:12]) if kind is None and head[4:8] == b"ftyp" else kind
    kind = "SVG" if kind is None and b"<svg" in head else kind
    if kind in FORMATS:
        return f"a {kind} that is damaged or of an unusual kind; {WANTED}, grey of 8 or 16 bits"
    return f"not a picture that can be read, but {kind}; {WANTED}" if kind else f"not a picture; {WANTED}"


def _opened(source: Path | io.BytesIO, max_pixels: int) -> Image.Image:
    try:
        return Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(f"more pixels than allowed: {max_pixels:,} in all") from None


def _check_whole(picture: Image.Image, source: Path | io.BytesIO) -> None:
    """Refuse pixels that are damaged in a way that Pillow's decoders do not notice, as far as the format tells."""
    if picture.format == "PNG":
        with Image.open(source, formats=("PNG",)) as again:  # a picture cannot be loaded after it was verified
            again.verify()
    if isinstance(picture, TiffImageFile):
        with nullcontext(source) if isinstance(source, io.BytesIO) else source.open("rb") as file:
            place = file.tell()
            check_strips(picture.tag_v2, file)
            file.seek(place)


def _check_frames(picture: Image.Image, repairs: list[str]) -> None:
    frames = getattr(picture, "n_frames", 1)
    if frames == 1:
        return
    if picture.format != "MPO":
        raise UserError(f"holds {frames} pictures; allowed: one")
    # Phones add a preview, a depth or a gain map to a JPEG; the first picture is the one that was taken.
    repairs.append(f"the first of {frames} pictures taken, as phones store them")


def _values(picture: Image.Image, white_is_zero: bool, repairs: list[str]) -> np.ndarray:
    if picture.mode in ("1", "L") or picture.mode[0] in "IF":
        values = np.asarray(picture, np.float32)
        if white_is_zero:
            repairs.append("inverted: 0 is white (MINISWHITE)")
        return -values if white_is_zero else values
    if not picture.has_transparency_data:
        return grey_of(np.asarray(picture.convert("RGB")), 255, repairs)
    clear = np.asarray(picture.convert("RGBA"))
    colours, alpha = clear[..., :3], clear[..., 3:]
    if not alpha.any():
        raise UserError("wholly transparent; allowed: a picture that can be seen")
    if white_is_zero:
        colours = 255 - colours
        repairs.append("inverted: 0 is white (MINISWHITE)")
    if (alpha < 255).any():
        repairs.append("transparency laid on black")
    return grey_of(colours * (alpha.astype(np.float32) / 255), 255, repairs)


def _rendered(info: dict[Any, Any]) -> dict[str, float] | None:
    try:
        return {str(name): float(value) for name, value in json.loads(info[RENDERED_KEY]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _source(path: Path) -> tuple[Path | io.BytesIO, bool]:
    """Return the source for Pillow, and True if its values must be inverted: a TIFF may say that 0 is white.

    In that case Pillow inverts some kinds of pixels, leaves others as they are and refuses the rest. It gets the file
    with that one number changed, so that it returns the stored values of all kinds.
    """
    with path.open("rb") as file:
        found = _photometric(file)
        if found is None or found.value != _WHITE_IS_ZERO:
            return path, False
        file.seek(0)
        data = bytearray(file.read())
    struct.pack_into(found.form, data, found.place, 1)
    return io.BytesIO(data), True


class _Number(NamedTuple):
    """Hold a number in a TIFF, its offset in bytes and its packing."""

    value: int
    place: int
    form: str


def _photometric(file: BinaryIO) -> _Number | None:
    """Return PhotometricInterpretation of a TIFF's first picture; None for other formats; UserError without one."""
    start = file.read(4)
    order, kind = ("<" if start[:1] == b"I" else ">"), start.strip(b"IM\0")
    if STARTS.get(start) != "TIFF":
        return None
    # A BigTIFF (+ instead of *) has wider numbers: a count of 8 bytes, entries of 20, their values in the last 8.
    head, count, entry, value = ("4xQ", "Q", 20, 8) if kind == b"+" else ("I", "H", 12, 4)
    try:
        (directory,) = _unpack(file, order + head)
        file.seek(directory)
        (entries,) = _unpack(file, order + count)
        for _ in range(entries):
            place = file.tell()
            tag, kind_of_number = _unpack(file, order + "HH")
            if tag == _PHOTOMETRIC:
                form = order + ("I" if kind_of_number == _LONG else "H")
                file.seek(place + entry - value)
                return _Number(_unpack(file, form)[0], place + entry - value, form)
            file.seek(place + entry)
    except (struct.error, OverflowError):
        return None  # cut short: Pillow reports it
    raise UserError("a TIFF without PhotometricInterpretation, which says whether 0 is black; allowed: one with it")


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))
