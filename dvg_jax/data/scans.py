"""Read a CT scan, in any common format, into the project's frame.

file or folder --nibabel / SimpleITK--> array + affine (RAS mm) --to_frame--> Scan(hu (D,H,W), spacing,
affine)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import SimpleITK

from dvg_jax.data import dicom
from dvg_jax.data.frame import Affine, HostVolume, orientation, spacing, to_frame
from dvg_jax.errors import UserError

NIFTI = (".nii", ".nii.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
MIN_SLICES = 8
"""Fewer along any axis is a localiser or a fragment, not a volume."""


@dataclass(frozen=True)
class Scan:
    """A CT in the frame: HU, voxel steps in mm along D, H, W, and the affine of that array to RAS mm.

    ``orientation`` is the file's own (such as ``LPS``); ``patient`` is the id its header states, if any.
    """

    hu: HostVolume
    spacing_mm: tuple[float, float, float]
    affine: Affine
    orientation: str
    patient: str | None = None


def load_scan(path: str | Path) -> Scan:
    """Read NIfTI, MetaImage, NRRD, or a folder that holds one DICOM series.

    Raises UserError naming the file: absent, unreadable, not three-dimensional, fewer than 8 slices along an
    axis, NaN or infinite values, unusable spacing, or no stated orientation.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    patient = None
    try:
        if path.is_dir():
            image, patient = dicom.read_series(path, MIN_SLICES)
            array, affine = _from_itk(image, path)
        elif path.name.lower().endswith(NIFTI):
            array, affine = _from_nifti(path)
        elif path.name.lower().endswith(ITK):
            array, affine = _from_itk(SimpleITK.ReadImage(str(path)), path)
        else:
            raise UserError(f"{path}: not a CT file, want {', '.join(NIFTI + ITK)} or a folder with a DICOM series")
    except UserError:
        raise
    except Exception as error:  # readers raise their own dozens of types for a damaged file
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(f"{path}: cannot be read ({reason[0]})") from error
    if array.ndim != 3 or min(array.shape) < MIN_SLICES:
        raise UserError(f"{path}: shape {array.shape}, want three axes of at least {MIN_SLICES} voxels")
    hu, ours = to_frame(array.astype(np.float32), affine, str(path))
    if not np.isfinite(hu).all():
        raise UserError(f"{path}: holds NaN or infinite values, want finite HU")
    return Scan(np.ascontiguousarray(hu), spacing(ours), ours, orientation(affine), patient)


def find_scans(folder: str | Path) -> Iterator[Path]:
    """Every scan below ``folder`` in sorted order: image files by their suffix, and folders that hold DICOM
    files.
    """
    for path in sorted(Path(folder).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and (path.name.lower().endswith(NIFTI + ITK) if path.is_file() else dicom.is_series(path)):
            yield path
    if dicom.is_series(Path(folder)):
        yield Path(folder)


def _from_nifti(path: Path) -> tuple[np.ndarray, Affine]:
    image = cast(nib.Nifti1Image, nib.load(path))
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        raise UserError(f"{path}: states no orientation (sform and qform codes are 0), so left and right are unknown")
    # The trailing axis of length 1 is how some writers store a single volume.
    return np.squeeze(np.asanyarray(image.dataobj)), np.asarray(image.affine, np.float64)


def _from_itk(image: SimpleITK.Image, path: Path) -> tuple[np.ndarray, Affine]:
    size, values = image.GetSize(), image.GetNumberOfComponentsPerPixel()
    if len(size) != 3 or values != 1:
        raise UserError(f"{path}: size {size} with {values} values a voxel, want 3-D with one")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), lps_to_ras @ affine
