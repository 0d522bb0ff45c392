"""Define the patient frame of this project, and bring arrays of any axis order into it.

A volume's axes run D = foot to head, H = anterior to posterior, W = patient right to left. Affines map array
indices ``(d, h, w, 1)`` to nibabel's world, RAS in mm (x to the patient's left is negative: ITK's LPS with x
and y negated).
"""

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from dvg_jax.errors import UserError

HostVolume = Float[np.ndarray, "D H W"]
HostImage = Float[np.ndarray, "h w"]
NewHostVolume = Float[np.ndarray, "D_out H_out W_out"]
NewHostImage = Float[np.ndarray, "h_out w_out"]
"""An array of another size than the input."""
Affine = Float[np.ndarray, "4 4"]

AXES = ("S", "P", "L")
"""Anatomical directions in which the three array axes grow: superior, posterior, left."""

FIELD_MM = 320.0
"""Default edge of the cube that a volume covers, as in X2CT-GAN."""

AIR_HU = -1024.0
"""HU of air, the lowest measured value: scanners store lower values where they did not measure."""

_MAX_TILT_DEG = 30.0
_DIRECTIONS = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]], np.float64)


def to_frame(array: np.ndarray, affine: Affine, name: str) -> tuple[np.ndarray, Affine]:
    """Permute and flip the three axes of a scan into the patient frame, without interpolation.

    The array's axes become the nearest patient axes; a tilt stays in the affine.

    Args:
      array: voxels with three axes in any order.
      affine: array indices to RAS mm.
      name: the file's name for error messages.

    Returns:
      The array ``(D, H, W)`` and its affine.

    Raises:
      UserError: the affine is singular, or tilted by more than 30 degrees from every patient axis.
    """
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not (steps > 0).all():
        raise UserError(f"{name}: voxel spacing {_triple(steps)} mm; allowed: three steps above 0")
    if abs(np.linalg.det(affine[:3, :3] / steps)) < 0.1:
        raise UserError(f"{name}: voxel axes are parallel; allowed: three that span space")
    transform = ornt_transform(io_orientation(affine), axcodes2ornt(AXES))
    ours = affine @ inv_ornt_aff(transform, array.shape)
    along = (ours[:3, :3] / np.linalg.norm(ours[:3, :3], axis=0) * _DIRECTIONS).sum(axis=0)
    tilt = np.degrees(np.arccos(np.clip(along, -1, 1))).max()
    if tilt > _MAX_TILT_DEG:
        raise UserError(f"{name}: axes tilted by {tilt:.0f} degrees; allowed: up to {_MAX_TILT_DEG:.0f}")
    return apply_orientation(array, transform), ours


def frame_affine(
    shape: tuple[int, ...],
    voxel_mm: float | tuple[float, float, float],
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Affine:
    """Return the affine of a volume in the patient frame that belongs to no scan.

    Args:
      shape: (D, H, W).
      voxel_mm: voxel size in mm, one for all axes or one for each of D, H, W.
      centre: RAS point in mm at the middle of the array.
    """
    affine = np.eye(4)
    affine[:3, :3] = _DIRECTIONS * np.broadcast_to(np.asarray(voxel_mm, np.float64), 3)
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape[:3]) - 1) / 2)
    return affine


def spacing(affine: Affine) -> tuple[float, float, float]:
    """Return the voxel size in mm along each array axis."""
    d, h, w = nib.affines.voxel_sizes(affine)
    return float(d), float(h), float(w)


def orientation(affine: Affine) -> str:
    """Return the anatomical direction of each array axis, such as ``RAS``."""
    return "".join(nib.aff2axcodes(affine))


def _triple(values: np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
