"""Read the headers of DICOM CT slices: one file a slice, opened once, without pixels.

file --read_header--> Slice (which may say why it is no slice of a volume) | the reason why it cannot be read
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from dvg_jax.errors import UserError, kind_and_text
from dvg_jax.files.dicom import open_dicom
from dvg_jax.files.dicom_tags import Word, beyond, stored_word
from dvg_jax.files.formats import Format, format_of, is_gzip

SUFFIXES = (".dcm", ".dicom", ".ima")

NOT_DICOM = "not a DICOM file"

_INDEX_OF_A_DISC = "1.2.840.10008.1.3.10"
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of compressed pixels, whose end is a mark; the decoder reports a missing one."""
_LONG_BYTES = 1024
_SHOWN = 60
_SKEW = 0.02
"""The directions' lengths and angle may be wrong by this much; some writers round to two digits."""
_SHARP = re.compile(r"bone|lung|edge|sharp|detail|^[bhi]r?[5-9]\d", re.I)
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality",
    "PatientID", "ImageType", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ConvolutionKernel", "PixelData",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """Hold the facts that one slice's header states.

    Attributes:
      path: the slice's file.
      series: SeriesInstanceUID.
      instance: SOPInstanceUID.
      place: study and frame of reference.
      patient: PatientID.
      not_a_slice: why this is no slice of a volume; empty for a slice.
      original: True if the slice is not derived.
      kernel: name of the convolution kernel.
      position: ImagePositionPatient, LPS in mm.
      grid: direction (6), spacing in mm (2), rows and columns; equal within a volume.
      padding_hu: lowest and highest HU of padding, or None.
      rescale: why the scale of values is in doubt; empty if it is not.
      word: how a pixel is stored; None where ``not_a_slice`` says why.
    """

    path: Path
    series: str
    instance: str
    place: tuple[str, str]
    patient: str
    not_a_slice: str
    original: bool
    kernel: str
    position: tuple[float, ...]
    grid: tuple[float, ...]
    padding_hu: tuple[float, float] | None
    rescale: str
    word: Word | None


def looks_like_dicom(path: Path) -> bool:
    """Return True for DICOM by suffix or content, since series are also exported as 000001 or 1.2.840.

    Unreadable files without such a suffix give False.
    """
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        return format_of(path) is Format.DICOM
    except OSError:
        return False


def read_header(path: Path) -> Slice | str | None:
    """Read a file's header without its pixels.

    Returns the reason where the header cannot be read, and None for a disc's index (DICOMDIR).
    """
    try:
        if format_of(path) is not Format.DICOM:
            return NOT_DICOM
        if is_gzip(path):
            return "DICOM inside gzip; allowed: unpacked files"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about character sets and lengths
            return _read(path)
    except InvalidDicomError:
        return NOT_DICOM
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except Exception as error:  # damaged headers raise dozens of types
        return f"header cannot be read ({kind_and_text(error)})"


def is_sharp(kernel: str) -> bool:
    """Return True if a convolution kernel sharpens edges, judged by the names that vendors use."""
    return bool(_SHARP.search(kernel))


def _read(path: Path) -> Slice | str | None:
    # Long values are skipped. A file that ends within its pixels is found all the same, compressed or not.
    header = open_dicom(path, defer_size=_LONG_BYTES, specific_tags=_TAGS)
    if header.file_meta.get("MediaStorageSOPClassUID") == _INDEX_OF_A_DISC:
        return None
    if not header.get("SeriesInstanceUID"):
        return "header states no SeriesInstanceUID"
    kinds = tuple(str(kind).upper() for kind in _many(header.get("ImageType")))
    kernel = _many(header.get("ConvolutionKernel"))
    (position, direction, pixel, shape), misplaced = _geometry(header)
    padding_hu, rescale, unscaled = _scale(header)
    word, unstored = _word(header)
    return Slice(
        path,
        str(header.SeriesInstanceUID),
        str(header.get("SOPInstanceUID") or path),
        (str(header.get("StudyInstanceUID") or ""), str(header.get("FrameOfReferenceUID") or "")),
        _patient(header),
        _other_kind(header, kinds)
        or misplaced
        or _no_pixels(path, header)
        or unscaled
        or unstored
        or _few_pixels(path, header, word),
        bool(kinds) and kinds[0] == "ORIGINAL",
        str(kernel[0]) if kernel else "",
        position,
        (*direction, *pixel, *shape),
        padding_hu,
        rescale,
        word,
    )


def _patient(header: pydicom.Dataset) -> str:
    """Return the PatientID; if its character set cannot decode it, its bytes as Latin-1, which keeps ids distinct."""
    raw = header.get_item("PatientID")
    text = str(header.get("PatientID") or "")
    if "\ufffd" in text and isinstance(raw, RawDataElement) and raw.value:
        text = raw.value.decode("latin-1")
    return text.strip(" \0")


def _other_kind(header: pydicom.Dataset, kinds: tuple[str, ...]) -> str:
    """Return why a file is of another kind than a CT slice; empty for a CT slice."""
    modality = header.get("Modality") or "not stated"
    if modality != "CT":
        return f"modality is {modality}; allowed: CT"
    if "LOCALIZER" in kinds:
        return "localiser (scout image)"
    if str(header.get("SOPClassUID")).startswith(_CAPTURE) or int(header.get("SamplesPerPixel") or 1) != 1:
        return "secondary capture, not HU"
    if int(header.get("NumberOfFrames") or 1) > 1:
        return "multi-frame CT; allowed: one file a slice (convert it with dcm2niix)"
    return ""


def _geometry(header: pydicom.Dataset) -> tuple[list[tuple[float, ...]], str]:
    """Return position, direction, pixel spacing and shape, and why they cannot be used (empty where they can)."""
    values: list[tuple[float, ...]] = []
    reason = ""
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        try:
            values.append(_numbers(header, tag))
        except UserError as error:
            reason = reason or str(error)
            values.append(())
    values.append((float(header.get("Rows") or 0), float(header.get("Columns") or 0)))
    if not reason and tuple(map(len, values[:3])) != (3, 6, 2):
        reason = "slices state no position, direction or pixel spacing, so left and right are unknown"
    elif not reason and min(values[2]) <= 0:
        reason = f"pixel spacing is {values[2]} mm; allowed: above 0"
    elif not reason and _skew(values[1]) > _SKEW:
        reason = f"ImageOrientationPatient is {values[1]}; allowed: two unit vectors at right angles"
    elif not reason and min(values[3]) < 1:
        reason = f"matrix is {values[3][0]:g} x {values[3][1]:g} pixels; allowed: 1 x 1 or more"
    return values, reason


def _skew(direction: tuple[float, ...]) -> float:
    """Return how far the directions of rows and columns are from two unit vectors at right angles."""
    pair = np.reshape(direction, (2, 3))
    return float(np.abs(pair @ pair.T - np.eye(2)).max())


def _no_pixels(path: Path, header: pydicom.Dataset) -> str:
    pixels = header.get_item("PixelData", keep_deferred=True)
    if pixels is None:
        return "no pixels in the file"
    deflated = header.file_meta.get("TransferSyntaxUID") == _DEFLATED  # offsets are those of the unpacked bytes
    if isinstance(pixels, RawDataElement) and pixels.value is None and pixels.length != _UNDEFINED_LENGTH:
        end = pixels.value_tell + pixels.length
        if path.stat().st_size < end and not deflated:
            return f"{path.name} is cut off: {path.stat().st_size} bytes, {end} stated"
    return ""


def _few_pixels(path: Path, header: pydicom.Dataset, word: Word | None) -> str:
    """Return why pixels that are not compressed cannot be all; a decoder would allocate what the header claims."""
    pixels = header.get_item("PixelData", keep_deferred=True)
    if word is None or not isinstance(pixels, RawDataElement) or pixels.length == _UNDEFINED_LENGTH:
        return ""
    size = f"{header.Rows} x {header.Columns} of {word.allocated} bits"
    short = pixels.length * 8 < header.Rows * header.Columns * word.allocated
    return f"{path.name} is cut off: {pixels.length} bytes of pixels, {size} stated" if short else ""


def _scale(header: pydicom.Dataset) -> tuple[tuple[float, float] | None, str, str]:
    """Return padding in HU, how stored values become HU where the header is silent, and why neither can be used."""
    try:
        slope, intercept = (_numbers(header, tag) for tag in ("RescaleSlope", "RescaleIntercept"))
        padding = _padding_hu(header, slope[0] if slope and slope[0] else 1.0, intercept[0] if intercept else 0.0)
    except UserError as error:
        return None, "", str(error)
    if not slope and not intercept:
        return padding, "state no rescale: stored values are taken for HU", ""
    if not intercept:
        return padding, "state no rescale intercept: taken as 0", ""
    return padding, "" if slope and slope[0] else "state a rescale slope of 0 or none: taken as 1", ""


def _word(header: pydicom.Dataset) -> tuple[Word | None, str]:
    try:
        return stored_word(header), ""
    except UserError as error:
        return None, str(error)


def _padding_hu(header: pydicom.Dataset, slope: float, intercept: float) -> tuple[float, float] | None:
    """Return the lowest and highest HU of padding (PixelPaddingValue, PixelPaddingRangeLimit), or None."""
    if header.get("PixelPaddingValue") is None:
        return None
    stored = [header.PixelPaddingValue, header.get("PixelPaddingRangeLimit", header.PixelPaddingValue)]
    if header.get("PixelRepresentation") == 1:  # some writers store a signed value as unsigned: 63536 for -2000
        stored = [value - 65536 if value > 32767 else value for value in stored]
    low, high = sorted(slope * float(value) + intercept for value in stored)
    return low, high


def _numbers(header: pydicom.Dataset, tag: str) -> tuple[float, ...]:
    """Return the numbers of an element, () where it is absent or empty. Raises UserError for what it cannot mean."""
    try:
        numbers = tuple(float(value) for value in _many(header.get(tag)))
    except (ValueError, TypeError, OverflowError) as error:
        raw = header.get_item(tag)
        value = raw.value if raw else None
        text = value.decode("latin-1") if isinstance(value, bytes) else "\\".join(map(str, _many(value)))
        raise UserError(f"{tag} is {text[:_SHOWN].strip()!r}; allowed: numbers with a decimal point") from error
    if why := beyond(tag, numbers):
        raise UserError(why)
    return numbers


def _many(value: object) -> tuple:
    if value is None or value == "":
        return ()
    return tuple(value) if isinstance(value, (MultiValue, list, tuple)) else (value,)
