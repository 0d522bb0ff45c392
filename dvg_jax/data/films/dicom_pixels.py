"""Decode the stored values of a DICOM film, with equal results from every decoder.

pydicom decodes uncompressed pixels and RLE, and with Pillow baseline JPEG and JPEG 2000. GDCM, inside SimpleITK, also
decodes JPEG-LS, lossless and 12 bit JPEG, but its reader inverts MONOCHROME1, rescales and applies palettes too. It
gets a copy of the pixels without the attributes that ask for this, so that one rule for greys follows every decoder.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from dvg_jax.errors import UserError
from dvg_jax.files.dicom import check_frame
from dvg_jax.files.dicom_tags import brief, stated, stored_word, text, whole

GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
LARGEST_SIDE = 65535
_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")


class Stored(NamedTuple):
    """Hold pixel values as a file stores them, before any table.

    Attributes:
      values: whole numbers (rows, columns), or RGB (rows, columns, 3) where ``photometric`` is a colour.
      photometric: one of ``GREY`` or ``COLOUR``.
      bits: number of bits of one value.
      signed: True if values may be negative.
      by: name of the decoder where it is not pydicom's own.
    """

    values: np.ndarray
    photometric: str
    bits: int
    signed: bool
    by: str | None


def stored_pixels(film: FileDataset, max_pixels: int) -> Stored:
    """Decode the one frame of ``film``.

    Raises UserError for no pixels, too many, an attribute that is missing or makes no sense, and pixels that are cut
    short or that no decoder understands.
    """
    if "PixelData" not in film:
        kind = next((name for name in ("FloatPixelData", "DoubleFloatPixelData") if name in film), None)
        raise UserError(f"its pixels are {kind}; allowed: PixelData" if kind else "a DICOM object without pixels")
    if stated(film, "PixelData", "allowed: pixels") is None:
        raise UserError("its PixelData is empty; allowed: pixels")
    rows, columns = (whole(film, name, 1, LARGEST_SIDE) for name in ("Rows", "Columns"))
    if rows * columns > max_pixels:
        raise UserError(f"{columns} x {rows} pixels; allowed: {max_pixels:,} in all")
    photometric = text(film, "PhotometricInterpretation")
    if photometric not in GREY + COLOUR:
        value = brief(photometric) if photometric else "missing"
        raise UserError(f"its PhotometricInterpretation is {value}; allowed: {', '.join(GREY + COLOUR)}")
    samples = 1 if photometric in GREY else 3
    whole(film, "SamplesPerPixel", samples, samples)
    pixels, bits, shift = _pixel_module(film, photometric, samples)
    values, by = _decoded(pixels, (rows, columns) if samples == 1 else (rows, columns, 3))
    return Stored(values >> shift if shift else values, photometric, bits, bool(pixels.PixelRepresentation), by)


def _pixel_module(film: FileDataset, photometric: str, samples: int) -> tuple[FileDataset, int, int]:
    """Copy the attributes that decoding needs; also return the bits of a value and the unused bits below it."""
    allocated, bits, high, signed = stored_word(film)
    syntax = _transfer_syntax(film)
    # JPEG of any kind encodes values, not the words that contain them.
    high = bits - 1 if _is_compressed(syntax) and syntax != RLELossless else high
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = _SECONDARY_CAPTURE, generate_uid()
    pixels = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    pixels.SOPClassUID, pixels.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    pixels.Rows, pixels.Columns, pixels.SamplesPerPixel = film.Rows, film.Columns, samples
    pixels.PhotometricInterpretation = photometric if samples == 3 else "MONOCHROME2"
    # Bits above the highest one are overlays and are left out. Bits below the lowest one are shifted away later.
    pixels.BitsAllocated, pixels.BitsStored, pixels.HighBit = allocated, high + 1, high
    pixels.PixelRepresentation = signed
    if samples == 3:
        pixels.PlanarConfiguration = whole(film, "PlanarConfiguration", 0, 1, default=0)
    pixels["PixelData"] = film["PixelData"]
    return pixels, bits, high + 1 - bits


def _transfer_syntax(film: FileDataset) -> UID:
    """Return the stated transfer syntax, or the encoding found on reading: files without preamble often state none."""
    named = getattr(film, "file_meta", Dataset()).get("TransferSyntaxUID")
    if named:
        return UID(named)
    implicit, little = film.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _is_compressed(syntax: UID) -> bool:
    return syntax.is_transfer_syntax and syntax.is_compressed and not syntax.is_deflated


def _decoded(pixels: FileDataset, shape: tuple[int, ...]) -> tuple[np.ndarray, str | None]:
    syntax = pixels.file_meta.TransferSyntaxUID
    compressed = _is_compressed(syntax)
    present, needed = len(pixels.PixelData), get_expected_length(pixels)
    if not compressed and present < needed:
        raise UserError(f"its pixels are cut short: {present} of {needed} bytes")
    if compressed:
        check_frame(pixels.PixelData, shape, syntax)
    values: np.ndarray | None = None
    by = None
    try:
        values = pixels.pixel_array
    except Exception:  # pydicom has no decoder, or its decoder fails: each raises its own types
        if compressed:
            values, by = _by_gdcm(pixels), "GDCM"
    if values is None or values.shape != shape:
        name = f"{'compressed' if compressed else 'stored'} as {brief(syntax.name)}"
        raise UserError(f"its pixels, {name}, cannot be decoded: they are damaged or of a kind not known here")
    return values, by


def _by_gdcm(pixels: FileDataset) -> np.ndarray | None:
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.dcm"
        try:
            pixels.save_as(path, enforce_file_format=True)
            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
        except Exception:  # the pixels are damaged, or GDCM does not know their kind either
            return None
    return values[0] if values.shape[0] == 1 else values
