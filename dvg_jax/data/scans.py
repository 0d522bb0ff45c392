"""Read a CT scan, in any common format, into the project's frame.

file or series --nibabel / SimpleITK / h5py--> array + affine (RAS mm) --to_frame--> Scan(hu (D,H,W), spacing, affine)
"""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import SimpleITK
from nibabel.arrayproxy import ArrayProxy

from dvg_jax.data import dicom, x2ct
from dvg_jax.data.frame import AIR_HU, Affine, HostVolume, orientation, spacing, to_frame
from dvg_jax.data.sizes import check_claim
from dvg_jax.data.straighten import straighten
from dvg_jax.errors import UserError

NIFTI = (".nii", ".nii.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
IMAGES = NIFTI + ITK + x2ct.SUFFIXES


@dataclass(frozen=True)
class Scan:
    """A CT in the frame: HU, voxel steps in mm along D, H, W, and the affine of that array to RAS mm.

    ``orientation`` is the file's own (such as ``LPS``); ``patient`` is the id its header states, if any; ``notes`` say
    what was done to the values or assumed on the way.
    """

    hu: HostVolume
    spacing_mm: tuple[float, float, float]
    affine: Affine
    orientation: str
    patient: str | None = None
    notes: tuple[str, ...] = ()


def load_scan(path: str | Path) -> Scan:
    """Read NIfTI, MetaImage, NRRD, X2CT's HDF5, or a folder that holds one DICOM series.

    Raises UserError naming the file: absent, unreadable, larger than it can be, not three-dimensional, fewer than 8
    slices along an axis, NaN or infinite values, unusable spacing, or no stated orientation.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return load_series(_only_series(path), path)
    if not path.name.lower().endswith(IMAGES):
        raise UserError(f"{path}: not a CT file, want {', '.join(IMAGES)} or a folder with a DICOM series")
    try:
        array, affine = _read_file(path)
    except UserError:
        raise
    except Exception as error:  # readers raise their own dozens of types for a damaged file
        raise UserError(f"{path}: cannot be read ({_last_line(error)})") from error
    notes = (x2ct.ASSUMED,) if path.name.lower().endswith(x2ct.SUFFIXES) else ()
    return _framed(array, affine, str(path), None, notes)


def load_series(series: dicom.Series, path: Path) -> Scan:
    """Read one series of an index; ``path`` is what errors call it. Raises UserError as ``load_scan`` does."""
    try:
        array, affine = dicom.read_series(series)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({_last_line(error)})") from error
    return _framed(array, affine, str(path), series.patient or None, series.notes)


def _only_series(folder: Path) -> dicom.Series:
    headers = [
        dicom.read_header(file) for file in sorted(folder.iterdir()) if file.is_file() and dicom.looks_like_dicom(file)
    ]
    found = dicom.group(header for header in headers if isinstance(header, dicom.Slice))
    volumes = [series for series in found if not series.reason]
    if len(volumes) == 1:
        return volumes[0]
    if len(volumes) > 1:
        raise UserError(f"{folder}: {len(volumes)} DICOM series, want one; dvg_jax.data.prepare chooses by rule")
    refused = [series for series in found if not series.passed_over] or found
    raise UserError(f"{folder}: {refused[0].reason if refused else '0 DICOM series, want one'}")


def _read_file(path: Path) -> tuple[np.ndarray, Affine]:
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _from_nifti(path)
    if name.endswith(ITK):
        return _from_itk(path)
    return x2ct.read_x2ct(path)


def _framed(array: np.ndarray, affine: Affine, name: str, patient: str | None, notes: tuple[str, ...]) -> Scan:
    if array.ndim != 3 or min(array.shape) < dicom.MIN_SLICES:
        raise UserError(f"{name}: shape {array.shape}, want three axes of at least {dicom.MIN_SLICES} voxels")
    if not np.isrealobj(array) or array.dtype.fields is not None:
        raise UserError(f"{name}: values are {array.dtype}, want one number a voxel")
    turned, ours = to_frame(array, affine, name)
    hu = np.ascontiguousarray(turned, np.float32)
    if not np.isfinite(hu).all():
        raise UserError(f"{name}: holds NaN or infinite values, want finite HU")
    padded = np.count_nonzero(hu < AIR_HU) / hu.size
    if padded:
        hu = np.maximum(hu, AIR_HU)
        notes = (*notes, f"padding ({padded:.1%} of voxels, under {AIR_HU:g} HU) is air")
    hu, ours, askew = straighten(hu, ours)
    if askew:
        notes = (*notes, f"axes {askew:.1f} degrees askew (tilted gantry) were straightened")
    return Scan(hu, spacing(ours), ours, orientation(affine), patient, notes)


def _from_nifti(path: Path) -> tuple[np.ndarray, Affine]:
    image = cast(nib.Nifti1Image, nib.load(path))
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        raise UserError(f"{path}: states no orientation (sform and qform codes are 0), so left and right are unknown")
    check_claim(path, image.shape, image.get_data_dtype().itemsize)
    if path.suffix.lower() == ".gz":
        image = _unpacked(path, image)
    # The trailing axis of length 1 is how some writers store a single volume.
    return np.squeeze(np.asanyarray(image.dataobj)), np.asarray(image.affine, np.float64)


def _unpacked(path: Path, image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image read to the end of its gzip file: only there does a damaged one show."""
    voxels = math.prod(image.shape) * image.get_data_dtype().itemsize
    with gzip.open(path) as file:
        raw = file.read(cast(ArrayProxy, image.dataobj).offset + voxels)
        if file.read(1):
            raise UserError(f"{path}: cannot be read (holds more than the {voxels} bytes that its header states)")
    return type(image).from_bytes(raw)


def _from_itk(path: Path) -> tuple[np.ndarray, Affine]:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, values = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3 or values != 1:
        raise UserError(f"{path}: size {size} with {values} values a voxel, want 3-D with one")
    check_claim(path, size, 1)
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), lps_to_ras @ affine


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
