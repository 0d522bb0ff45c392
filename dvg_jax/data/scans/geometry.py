"""Check what a file states about its voxels' positions: units, missing fields and contradictions.

The checks are alike for all formats. No program may guess left from right: an affine that a file does not state is
never invented.
"""

import numpy as np

from dvg_jax.ct.frame import Affine, orientation, spacing
from dvg_jax.errors import UserError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns positions as DICOM and MetaImage state them into nibabel's."""

MM = {"mm": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001}
"""Length in mm of each unit that headers use."""

_NAMES = {
    "millimeter": "mm", "millimetre": "mm", "millimeters": "mm", "millimetres": "mm", "meter": "m", "metre": "m",
    "meters": "m", "metres": "m", "centimeter": "cm", "centimetre": "cm", "µm": "um", "μm": "um",
    "micron": "um", "microns": "um", "micrometer": "um", "micrometre": "um",
}  # fmt: skip

_LEAST_MM, _MOST_MM = 0.05, 50.0
_LONGEST_MM = 3000.0
_FARTHEST_MM = 1e6


def no_orientation(path: object, why: str) -> UserError:
    """Return the error for a file that does not say where its axes point."""
    return UserError(f"{path}: states no orientation ({why}), so left and right are unknown")


def in_mm(path: object, affine: Affine, unit: str) -> tuple[Affine, tuple[str, ...]]:
    """Convert an affine to mm.

    Args:
      path: the file, for error messages.
      affine: array indices to RAS in ``unit``.
      unit: unit of length as the file states it.

    Returns:
      The affine in mm, and a note if that changed it.

    Raises:
      UserError: the unit is unknown.
    """
    name = _NAMES.get(unit.strip().lower(), unit.strip().lower())
    if name not in MM:
        raise UserError(f"{path}: states lengths in {unit!r}; allowed: {', '.join(MM)}")
    if MM[name] == 1:
        return affine, ()
    converted = affine.copy()
    converted[:3] *= MM[name]
    return converted, (f"lengths in {name} were converted to mm",)


def check_extent(path: object, shape: tuple[int, ...], affine: Affine) -> None:
    """Refuse voxels, volumes or places that no CT of a person has, as wrong units or invented steps give.

    Args:
      path: the file, for error messages.
      shape: voxels along each axis.
      affine: array indices to RAS mm.

    Raises:
      UserError: a voxel, the longest axis or the first voxel's position is out of range.
    """
    if not (abs(affine[:3, 3]) < _FARTHEST_MM).all():
        place = ", ".join(f"{mm:.4g}" for mm in affine[:3, 3])
        raise UserError(f"{path}: position {place} mm; allowed: within {_FARTHEST_MM:g} mm")
    steps = np.array(spacing(affine))
    longest = float((steps * shape).max())
    if steps.min() < _LEAST_MM or steps.max() > _MOST_MM or longest > _LONGEST_MM:
        sizes = " x ".join(f"{step:.4g}" for step in steps)
        allowed = f"{_LEAST_MM:g} to {_MOST_MM:g} mm and {_LONGEST_MM:g} mm (is the unit mm?)"
        raise UserError(
            f"{path}: voxel spacing {sizes} mm, {longest:.4g} mm along the longest axis; allowed: {allowed}"
        )


def check_same(path: object, shape: tuple[int, ...], one: Affine, other: Affine, names: str) -> tuple[str, ...]:
    """Compare two affines that one file states.

    Args:
      path: the file, for error messages.
      shape: voxels along each axis.
      one: the affine that is used.
      other: the affine to compare.
      names: names of both, for messages.

    Returns:
      A note if the two place a corner more than a voxel apart.

    Raises:
      UserError: they disagree about the axes' directions, so one of them mirrors or turns the patient.
    """
    if not all(np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) for affine in (one, other)):
        return ()  # an invalid affine is refused where it is used
    codes = orientation(one), orientation(other)
    if codes[0] != codes[1]:
        raise UserError(f"{path}: {names} contradict each other: axes point {codes[0]} and {codes[1]}")
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in shape), [1], indexing="ij"), -1).reshape(-1, 4)
    apart = float(np.linalg.norm(corners @ (one - other).T, axis=1).max())
    if apart <= max(spacing(one)):
        return ()
    return (f"{names} place the scan up to {apart:.0f} mm apart; the first is used",)
