"""Read a CT scan, in any common format, into the project's frame.

file or series --its format's reader--> array + affine (RAS mm) --frame, hounsfield--> Scan (hu, spacing, affine)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dvg_jax.ct.frame import AIR_HU, Affine, HostVolume, orientation, spacing, to_frame
from dvg_jax.data.scans import dicom, x2ct
from dvg_jax.data.scans.geometry import check_extent, no_orientation
from dvg_jax.data.scans.hounsfield import padding_to_air, why_no_hu
from dvg_jax.data.scans.meta_image import read_meta_image
from dvg_jax.data.scans.nifti import read_nifti
from dvg_jax.data.scans.nrrd import read_nrrd
from dvg_jax.data.scans.series import MIN_SLICES, Series, group
from dvg_jax.data.scans.slice_pixels import read_slices
from dvg_jax.data.scans.straighten import straighten
from dvg_jax.errors import UserError
from dvg_jax.files.formats import Format, format_of, head

IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", *x2ct.SUFFIXES)
"""Suffixes of files that claim to be scans: if their content is something else, they are refused by name."""

_KNOWN = "NIfTI, MetaImage, NRRD, X2CT's HDF5 or a folder with a DICOM series"

Read = tuple[np.ndarray, Affine, tuple[str, ...]]


@dataclass(frozen=True)
class Scan:
    """Hold a CT in the patient frame.

    Attributes:
      hu: HU (D, H, W).
      spacing_mm: voxel size in mm along D, H, W.
      affine: ``(d, h, w)`` to RAS mm.
      orientation: anatomical directions of the file's own axes, such as ``LPS``.
      patient: id that the header states, or None.
      notes: conversions and assumptions, one each.
      doubt: why the values cannot be HU, with the file's name; call :meth:`checked` where HU are needed.
    """

    hu: HostVolume
    spacing_mm: tuple[float, float, float]
    affine: Affine
    orientation: str
    patient: str | None = None
    notes: tuple[str, ...] = ()
    doubt: str = ""

    def checked(self) -> "Scan":
        """Return the scan itself. Raises UserError where its values cannot be HU."""
        if why := self.doubt or why_no_hu(self.hu):
            raise UserError(why)
        return self


def load_scan(path: str | Path) -> Scan:
    """Read NIfTI, MetaImage, NRRD, X2CT's HDF5, or a folder with one DICOM series. The content decides which.

    Values that cannot be HU are reported in ``Scan.doubt`` and not refused, so that a poor model's output can be read.

    Raises:
      UserError: the file is absent, unreadable, larger than it can be, not three-dimensional, has fewer than 8 slices
        along an axis, NaN or infinite values, unusable spacing, or no stated orientation.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return load_series(_only_series(path), path)
    array, affine, notes = _tried(path, lambda: _read_file(path))
    return _framed(array, affine, str(path), None, notes)


def load_series(series: Series, path: Path) -> Scan:
    """Read one series of an index; ``path`` is its name in error messages. Raises UserError as ``load_scan`` does."""
    if series.reason:
        raise UserError(f"{path}: {series.reason}")
    array, affine, notes = _tried(path, lambda: read_slices(series.slices), named=False)
    return _framed(array, affine, str(path), series.patient or None, (*series.notes, *notes))


def _tried(path: Path, read: Callable[[], Read], named: bool = True) -> Read:
    try:
        return read()
    except UserError as error:
        raise error if named else UserError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or _last_line(error)})") from error
    except Exception as error:  # readers raise dozens of types for a damaged file
        raise UserError(f"{path}: cannot be read ({_last_line(error)})") from error


def _only_series(folder: Path) -> Series:
    headers = [
        dicom.read_header(file) for file in sorted(folder.iterdir()) if file.is_file() and dicom.looks_like_dicom(file)
    ]
    found = group(header for header in headers if isinstance(header, dicom.Slice))
    volumes = [series for series in found if not series.reason]
    if len(volumes) == 1:
        return volumes[0]
    if len(volumes) > 1:
        raise UserError(f"{folder}: {len(volumes)} DICOM series; allowed: one (dvg_jax.data.prepare chooses by rule)")
    refused = [series.reason for series in found if not series.passed_over] or [series.reason for series in found]
    unreadable = [header for header in headers if isinstance(header, str)]
    raise UserError(f"{folder}: {(refused or unreadable or ['0 DICOM series; allowed: one'])[0]}")


def _read_file(path: Path) -> Read:
    kind = format_of(path)
    if kind is Format.NIFTI:
        return read_nifti(path)
    if kind is Format.META_IMAGE:
        return read_meta_image(path)
    if kind is Format.NRRD:
        return read_nrrd(path)
    if kind is Format.HDF5:
        return *x2ct.read_x2ct(path), (x2ct.ASSUMED,)
    if kind is Format.ANALYZE:
        raise no_orientation(path, "an Analyze 7.5 file, which cannot")
    if kind is Format.DICOM:
        raise UserError(f"{path}: one DICOM file; allowed: the folder with its series")
    raise UserError(f"{path}: {_no_scan(path)}")


def _no_scan(path: Path) -> str:
    if not path.name.lower().endswith(IMAGES):
        return f"not a CT file; allowed: {_KNOWN}"
    first = head(path)[:8]
    if not path.stat().st_size:
        return "cannot be read (the file is empty)"
    return f"cannot be read (the content is none of {_KNOWN}: it begins with {first!r})"


def _framed(array: np.ndarray, affine: Affine, name: str, patient: str | None, notes: tuple[str, ...]) -> Scan:
    if array.ndim != 3 or min(array.shape) < MIN_SLICES:
        raise UserError(f"{name}: shape {array.shape}; allowed: three axes of at least {MIN_SLICES} voxels")
    if not np.isrealobj(array) or array.dtype.fields is not None:
        raise UserError(f"{name}: values are {array.dtype}; allowed: one number a voxel")
    turned, ours = to_frame(array, affine, name)
    check_extent(name, turned.shape, ours)
    hu = np.ascontiguousarray(turned, np.float32)
    if not np.isfinite(hu).all():
        raise UserError(f"{name}: holds NaN or infinite values; allowed: finite HU")
    why = why_no_hu(hu)
    doubt = f"{name}: {'; '.join((why, *notes))}" if why else ""
    hu, padded = (np.maximum(hu, AIR_HU), ()) if why else padding_to_air(hu)  # padding is recognised in HU only
    hu, ours, askew = straighten(hu, ours)
    notes = (*notes, *padded)
    if askew:
        notes = (*notes, f"axes {askew:.1f} degrees askew (tilted gantry) were straightened")
    return Scan(hu, spacing(ours), ours, orientation(affine), patient, notes, doubt)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
