"""A small synthetic chest with a couch, for tests of readers and preparation."""

import itertools
from collections.abc import Callable, Collection
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from nibabel.orientations import apply_orientation, inv_ornt_aff
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dvg_jax.ct.frame import frame_affine

SPACING = (5.0, 4.0, 4.0)
SHAPE = (36, 60, 66)
CENTRE = (12.0, -30.0, 200.0)


def affine() -> np.ndarray:
    return frame_affine(SHAPE, SPACING, CENTRE)


def chest_on_couch(with_couch: bool = True) -> np.ndarray:
    """HU in the frame: an elliptic trunk, two lungs (the left one smaller), a spine, and a plate 16 mm behind it."""
    d, h, w = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    hu = np.full(SHAPE, -1000.0, np.float32)
    hu[(h / 18) ** 2 + (w / 26) ** 2 < 1] = 40
    hu[(d / 14) ** 2 + (h / 11) ** 2 + ((w + 13) / 10) ** 2 < 1] = -850
    hu[(d / 12) ** 2 + (h / 10) ** 2 + ((w - 13) / 8) ** 2 < 1] = -850
    hu[(h - 13) ** 2 + w**2 < 9] = 600
    if with_couch:
        hu[:, 52:54, 8:58] = -200
    return hu


def reordered(array: np.ndarray, matrix: np.ndarray):
    """The same scan stored in each of the 48 orders and directions of axes, with the affine that says so."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            how = np.array(list(zip(order, flips, strict=True)), float)
            yield apply_orientation(array, how), matrix @ inv_ornt_aff(how, array.shape)


def write(path: Path, array: np.ndarray, matrix: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.int16), matrix), path)
    return path


def itk_image(hu: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    """An image in ITK's convention, LPS and (x, y, z) indices, of an array in the frame."""
    image = SimpleITK.GetImageFromArray(hu.astype(np.int16))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine[:, [2, 1, 0, 3]]
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(steps.tolist())
    image.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def write_series(
    folder: Path,
    hu: np.ndarray,
    affine: np.ndarray,
    skip: Collection[int] = (),
    patient: str = "P-7",
    change: Callable[[FileDataset, int], None] = lambda item, d: None,
) -> Path:
    """A CT series, one file a slice; ``change`` edits a slice's header before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study, lps = generate_uid(), generate_uid(), np.diag([-1.0, -1, 1, 1]) @ affine
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    for d in range(hu.shape[0]):
        if d in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        name = folder / f"slice{(d * 7) % 101:03d}.dcm"  # names out of order: positions must decide
        item = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.SeriesInstanceUID, item.FrameOfReferenceUID, item.StudyInstanceUID = series, study, study
        item.Modality, item.PatientID, item.InstanceNumber = "CT", patient, d + 1
        item.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        item.ImagePositionPatient = [f"{v:.6f}" for v in lps[:3] @ (d, 0, 0, 1)]
        item.ImageOrientationPatient = [f"{v:.9f}" for v in (*lps[:3, 2] / steps[2], *lps[:3, 1] / steps[1])]
        item.PixelSpacing = [f"{steps[1]:.6f}", f"{steps[2]:.6f}"]
        item.SliceThickness = f"{steps[0]:.6f}"
        item.Rows, item.Columns = hu.shape[1:]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated = item.BitsStored = 16
        item.HighBit, item.PixelRepresentation = 15, 0
        item.RescaleIntercept, item.RescaleSlope = -1024, 1
        item.PixelData = (hu[d] + 1024).astype(np.uint16).tobytes()
        change(item, d)
        item.save_as(name, enforce_file_format=True)
    return folder
