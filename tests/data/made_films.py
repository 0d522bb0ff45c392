"""Films for tests: views of phantoms as files, and DICOM objects by hand."""

from functools import cache
from pathlib import Path

import jax
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from dvg_jax.data.films.mean_chest import CASES, SIZE, plain_chest
from dvg_jax.xray import ConeBeamGeometry, forward_project_views, view_pose

ANGLES = (0.0, 90.0)


@cache
def phantom_views(case: int, pixels: int = 128) -> np.ndarray:
    """Return the frontal and the lateral view, (2, pixels, pixels), of a plain phantom that templates have not seen."""
    covering = ConeBeamGeometry.covering(SIZE)
    pixel = covering.pixel_mm[0] * SIZE / pixels
    geometry = ConeBeamGeometry(
        covering.volume_shape, covering.voxel_mm, (pixels, pixels), (pixel, pixel), samples_per_ray=2 * SIZE
    )
    volume = np.asarray(plain_chest(jax.random.key(CASES + case)))
    poses = np.stack([view_pose(angle) for angle in ANGLES])
    views = np.asarray(jax.jit(forward_project_views, static_argnums=2)(volume, poses, geometry))
    low, high = views.min(axis=(1, 2), keepdims=True), views.max(axis=(1, 2), keepdims=True)
    return (views - low) / (high - low)


def write_dicom(path: Path, pixels: np.ndarray, modality: str = "DX", **tags: object) -> Path:
    """``pixels`` (rows, columns) or (frames, rows, columns), uint16, head first, with any tags beside."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(pydicom.uid.DigitalXRayImageStorageForPresentation)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality = modality
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype(np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path
