"""Build DICOM films by hand, in every transfer syntax that the packages at hand can write."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG 2000": JPEG2000Lossless,
    "lossless JPEG": JPEGLosslessSV1,
}
"""Pillow decodes JPEG 2000, GDCM lossless JPEG, pydicom the others."""


def brightness(shape: tuple[int, int] = (40, 32)) -> np.ndarray:
    """Draw the brightness of a film: bright at the head, row 0, and a little brighter to the right."""
    return np.add.outer(np.linspace(0.9, 0.1, shape[0]), np.linspace(0, 0.1, shape[1]))


def dataset(pixels: np.ndarray, bits: int = 12, syntax: UID = ExplicitVRLittleEndian, **tags: object) -> FileDataset:
    """Build a film of ``pixels`` (rows, columns), of 8 or 16 bits, signed or not, with any further tags."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.Modality, film.PhotometricInterpretation, film.SamplesPerPixel = "DX", "MONOCHROME2", 1
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * pixels.itemsize, bits, bits - 1
    film.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(film, name, value)
    if syntax in (JPEG2000Lossless, JPEGLosslessSV1):
        film.PixelData = encapsulate([_encoded(pixels, syntax)])
    else:
        film.PixelData = pixels.astype(pixels.dtype.newbyteorder("><"[syntax.is_little_endian])).tobytes()
    film["PixelData"].VR = "OB" if pixels.itemsize == 1 or syntax.is_compressed else "OW"
    film["PixelData"].is_undefined_length = syntax in (JPEG2000Lossless, JPEGLosslessSV1)
    return film


def save(film: FileDataset, path: Path) -> Path:
    """Write a film in its own transfer syntax."""
    syntax = film.file_meta.TransferSyntaxUID
    if syntax == RLELossless:
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.compress(RLELossless, generate_instance_uid=False)
    pydicom.dcmwrite(
        path,
        film,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=syntax != ExplicitVRBigEndian,
        force_encoding=syntax == ExplicitVRBigEndian,
    )
    return path


def table(entries: np.ndarray, first: int, bits: int = 16, little: bool = True) -> Sequence:
    """Build a modality or VOI table whose first entry is for the value ``first``."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", entries.astype("><"[little] + "u2").tobytes())
    return Sequence([item])


def _encoded(pixels: np.ndarray, syntax: UID) -> bytes:
    if syntax == JPEG2000Lossless:
        stream = io.BytesIO()
        Image.fromarray(pixels.view(f"u{pixels.itemsize}")).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
        return stream.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lossless.dcm"
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(path))
        writer.Execute(SimpleITK.GetImageFromArray(pixels))
        written = pydicom.dcmread(path)
    assert written.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    return next(generate_frames(written.PixelData, number_of_frames=1))
