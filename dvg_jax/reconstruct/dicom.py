"""Write a reconstruction as a DICOM CT series that any viewer opens and whose slices all say what they are.

They are marked derived, synthetic, not for diagnosis. Where the films are DICOM, the series joins their study and
patient and refers to them. Identifiers are derived from voxels and settings: equal runs write equal files.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from dvg_jax.ct.frame import Affine, HostVolume, spacing
from dvg_jax.ct.intensity import WINDOWS
from dvg_jax.ct.nifti import to_int16
from dvg_jax.errors import UserError
from dvg_jax.files.atomic import check_free, new_folder
from dvg_jax.fingerprint import VERSION
from dvg_jax.reconstruct.study import Study, quietly, read_study

NOTICE = "SYNTHETIC - NOT FOR DIAGNOSIS"
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SERIES_NUMBER = 9000
"""Series number, high so that in a film's study the series comes after those that were acquired."""

_BLANK = np.zeros((1, 2, 2), np.int16)
_MAX_SHEAR = 1e-4
_TEXT_LIMIT = 1024


def check_series(folder: Path, films: Sequence[Path], affine: Affine) -> tuple[str, ...]:
    """Refuse, before any work is done, what :func:`save_series` would refuse; a slice is written on trial.

    Args:
      folder: folder for the series.
      films: the X-rays, DICOM or not.
      affine: ``(d, h, w)`` to RAS mm.

    Returns:
      Notes on the films' tags that cannot be used and are left out, one line each.

    Raises:
      UserError: the folder is not empty or has no parent, axes are sheared, or the films' tags cannot be written.
    """
    check_free(folder)
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder} has no parent folder; allowed: a new folder in one that exists")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > _MAX_SHEAR:
        raise UserError(f"{folder}: the volume's axes are sheared; allowed for DICOM: axes at right angles")
    study = read_study(films, _digests(films))
    try:
        _write(_slice(_common(_BLANK, affine, films, study, {}), 0, _BLANK[0], np.zeros(3)), io.BytesIO())
    except Exception as error:  # pydicom raises dozens of types for values that it cannot write
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{folder}: what the films state cannot be passed on ({reason}); allowed: no --dicom"
        ) from error
    return study.notes


def save_series(
    folder: Path, hu: HostVolume, affine: Affine, films: Sequence[Path], settings: Mapping[str, Any]
) -> None:
    """Write HU ``(D, H, W)`` as a series, one file a slice from foot to head, whole or not at all.

    Args:
      folder: new or empty folder.
      hu: HU ``(D, H, W)``.
      affine: ``(d, h, w)`` to RAS mm, axes at right angles.
      films: the X-rays that the CT was reconstructed from, DICOM or not.
      settings: JSON-able settings of the reconstruction, written into every slice.

    Raises:
      UserError: a folder that is not empty, films of different patients, sheared axes.
    """
    check_series(folder, films, affine)
    voxels = to_int16(hu)
    common = _common(voxels, affine, films, read_study(films, _digests(films)), settings)
    with new_folder(folder) as part:
        for index, pixels in enumerate(voxels):
            position = (_RAS_TO_LPS @ affine)[:3] @ (index, 0, 0, 1)
            _write(_slice(common, index, pixels, position), part / f"{index + 1:04d}.dcm")


def _digests(films: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(film.read_bytes()).hexdigest() for film in films]


def _common(
    voxels: np.ndarray, affine: Affine, films: Sequence[Path], study: Study, settings: Mapping[str, Any]
) -> Dataset:
    """Return the tags that all slices share."""
    text, digests = json.dumps(settings, sort_keys=True), _digests(films)
    place, content = affine.tobytes().hex(), hashlib.sha256(voxels.tobytes()).hexdigest()
    series = Dataset()
    # Tags of films come decoded from their own character sets.
    series.SpecificCharacterSet = "ISO_IR 192"
    with quietly():
        for name, value in study.fields.items():
            setattr(series, name, value)
    series.SeriesInstanceUID = generate_uid(entropy_srcs=["series", content, place, text, *digests])
    series.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", place, *digests])
    series.SOPClassUID = CTImageStorage
    series.Modality, series.SeriesNumber, series.BodyPartExamined = "CT", _SERIES_NUMBER, "CHEST"
    series.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    series.SeriesDescription = NOTICE
    series.ImageComments = f"{NOTICE}. A generated image, not a measurement. Settings: {text}"
    series.DerivationDescription = _derivation(films, settings)
    series.ContentQualification, series.BurnedInAnnotation = "RESEARCH", "NO"
    series.Manufacturer = series.ManufacturerModelName = "dvg_jax"
    series.SoftwareVersions = VERSION
    if study.lossy:
        series.LossyImageCompression = "01"
    if study.references:
        series.SourceImageSequence = list(study.references)
    for name in ("KVP", "AcquisitionNumber", "PatientPosition", "PositionReferenceIndicator"):
        setattr(series, name, None)
    depth, height, width = spacing(affine)
    axes = (_RAS_TO_LPS @ affine)[:3, :3] / (depth, height, width)
    series.ImageOrientationPatient = _decimals([*axes[:, 2], *axes[:, 1]])
    series.PixelSpacing, series.SliceThickness = _decimals([height, width]), _decimals([depth])
    series.RescaleIntercept, series.RescaleSlope, series.RescaleType = 0, 1, "HU"
    series.WindowCenter, series.WindowWidth = (list(column) for column in zip(*WINDOWS.values(), strict=True))
    series.WindowCenterWidthExplanation = [name.upper() for name in WINDOWS]
    return series


def _slice(common: Dataset, index: int, pixels: np.ndarray, position: np.ndarray) -> Dataset:
    one = Dataset()
    one.update(common)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.set_pixel_data(pixels, "MONOCHROME2", 16, generate_instance_uid=False)
    one.SOPInstanceUID = generate_uid(entropy_srcs=[common.SeriesInstanceUID, str(index)])
    one.InstanceNumber = index + 1
    one.ImagePositionPatient = _decimals(position)
    return one


@quietly()
def _write(one: Dataset, to: Path | io.BytesIO) -> None:
    one.save_as(to, enforce_file_format=True)


def _derivation(films: Sequence[Path], settings: Mapping[str, Any]) -> str:
    # A name that is not UTF-8 cannot be written, so its bytes are replaced.
    names = ", ".join(film.name for film in films).encode("utf-8", "replace").decode()
    facts = ", ".join(
        f"{name} {settings[name]}" for name in ("model", "seed", "steps", "consistency") if name in settings
    )
    return f"CT generated from {names} by dvg_jax {VERSION} ({facts})"[:_TEXT_LIMIT]


def _decimals(values: Sequence[float] | np.ndarray) -> list[DSfloat]:
    """Return decimal strings of at most 16 characters, as DICOM stores numbers."""
    return [DSfloat(float(value), auto_format=True) for value in values]
