"""Bring one scan to the network's cube: couch removed, cut to 320 mm around the chest, resized to N^3, in [0, 1].

The protocol is X2CT-GAN's with one resampling step in place of its two (to 1 mm by cubic splines, to N^3 linearly
without a low-pass): each new voxel is the mean of the scan over its extent, so nothing aliases.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dvg_jax.ct.frame import AIR_HU, FIELD_MM, Affine, HostVolume, NewHostVolume
from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.scans import published, remarks, upright
from dvg_jax.data.scans.body import HostMask, body_mask
from dvg_jax.data.scans.lungs import Lungs, find_lungs
from dvg_jax.data.scans.read import Scan
from dvg_jax.data.scans.resample import resample_cube
from dvg_jax.errors import UserError

PRESETS = ("x2ct", "lung", "published")

_LEAST_LITRES = 1.0
_COARSE_MM = 5.0
_CUT_OFF = 0.1
_SAME_EDGE_MM = 1.0


@dataclass(frozen=True)
class Prepared:
    """Hold a prepared scan.

    Attributes:
      volume: the cube (D, H, W) in [0, 1].
      affine: ``(d, h, w)`` to RAS mm.
      middle: index of the cube's middle in the scan.
      checks: remarks for a reader of the cube.
    """

    volume: HostVolume
    affine: Affine
    middle: tuple[float, float, float]
    checks: tuple[str, ...]


def prepare_volume(
    scan: Scan, size: int = 128, field_mm: float = FIELD_MM, preset: str = "x2ct"
) -> tuple[HostVolume, Affine]:
    """Prepare one scan like :func:`prepare_scan`, and return the cube in [0, 1] and its affine without remarks.

    Args:
      scan: the scan in HU.
      size: voxels along each axis.
      field_mm: edge of the cube in mm.
      preset: ``x2ct`` or ``lung``.

    Raises:
      UserError: as :func:`prepare_scan` does.
    """
    prepared = prepare_scan(scan, size, field_mm, preset)
    return prepared.volume, prepared.affine


def prepare_scan(scan: Scan, size: int = 128, field_mm: float = FIELD_MM, preset: str = "x2ct") -> Prepared:
    """Cut a cube out of a scan, or pad it with air, with values clip(HU + 1024, 0, 2500) / 2500.

    Args:
      scan: the scan in HU.
      size: voxels along each axis.
      field_mm: edge of the cube in mm.
      preset: ``x2ct`` takes the middle of the scan in H and W; in D it takes the head end, and pads a shorter scan at
        both ends, as X2CT-GAN does. ``lung`` takes the middle of the body in H and W and of the lungs in D (of the body
        where there are no lungs). ``published`` takes the whole scan, couch included: see ``published.py``.

    Raises:
      UserError: values are not HU, there is no body, or as :func:`check_cube` does.
    """
    check_cube(size, field_mm, preset)
    mask = body_mask(scan.checked().hu, scan.spacing_mm)
    if not mask.any():
        raise UserError("no body: no connected tissue above -500 HU; allowed: a CT of a patient in HU")
    lungs = find_lungs(scan.hu, mask, scan.spacing_mm)
    on_lungs = _lung_middle(lungs, mask)
    if preset == "published":
        depth, height, width = scan.hu.shape
        middle = (depth - 1) / 2, (height - 1) / 2, (width - 1) / 2
        volume, affine = published.prepare_cube(scan.hu, scan.affine, size)
    else:
        middle = _x2ct_middle(scan, field_mm) if preset == "x2ct" else on_lungs
        volume, affine = cut(np.where(mask, scan.hu, AIR_HU), scan.affine, middle, field_mm, size)
    partial = scan.hu.shape[0] * scan.spacing_mm[0] < field_mm / 2
    checks = [
        *_chest_checks(scan, mask, lungs, on_lungs, partial),
        *_cube_checks(scan, mask, middle, field_mm, partial, whole=preset == "published"),
    ]
    return Prepared(volume, affine, middle, tuple(remarks.ranked([*checks, *scan.notes])))


def check_cube(size: int, field_mm: float, preset: str) -> None:
    """Check a cube's settings.

    Args:
      size: voxels along each axis.
      field_mm: edge in mm.
      preset: name of a rule for the cube's place.

    Raises:
      UserError: a size or edge is not above 0, or the preset is unknown.
    """
    if size < 1 or not 0 < field_mm < np.inf:
        raise UserError(f"size is {size}, field_mm is {field_mm}; allowed: above 0 for both")
    if preset not in PRESETS:
        raise UserError(f"preset is {preset!r}; allowed: {', '.join(PRESETS)}")
    if preset == "published" and field_mm != FIELD_MM:
        raise UserError(f"field_mm is {field_mm:g}; allowed: {FIELD_MM:g} with preset published, which cuts nothing")


def cut(
    hu: HostVolume, affine: Affine, middle: tuple[float, float, float], field_mm: float, size: int
) -> tuple[NewHostVolume, Affine]:
    """Cut a cube out of a CT, with nothing removed.

    Args:
      hu: HU (D, H, W).
      affine: ``(d, h, w)`` to RAS mm.
      middle: index (d, h, w) of the cube's middle, fractional.
      field_mm: edge of the cube in mm.
      size: voxels along each axis.

    Returns:
      The cube in [0, 1], and its affine.
    """
    intensity = np.asarray(hu_to_intensity(hu), np.float32)
    volume, follows = resample_cube(intensity, affine, middle, field_mm, size)
    return np.clip(volume, 0, 1), follows


def _lung_middle(lungs: Lungs | None, mask: HostMask) -> tuple[float, float, float]:
    return lungs.middle if lungs else _middle(mask, 0), _middle(mask, 1), _middle(mask, 2)


def _middle(mask: HostMask, axis: int) -> float:
    """Return the middle of a mask along an axis, half-way between its 2nd and 98th percentile, without stray pieces."""
    share = np.cumsum(mask.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.int64)) / mask.sum(dtype=np.int64)
    return float(np.searchsorted(share, 0.02) + np.searchsorted(share, 0.98)) / 2


def _x2ct_middle(scan: Scan, field_mm: float) -> tuple[float, float, float]:
    depth, height, width = scan.hu.shape
    kept = min(depth, field_mm / scan.spacing_mm[0])
    return depth - kept / 2 - 0.5, (height - 1) / 2, (width - 1) / 2


def _chest_checks(
    scan: Scan, mask: HostMask, lungs: Lungs | None, on_lungs: tuple[float, float, float], partial: bool
) -> Iterator[str]:
    """Yield remarks on the chest. A ``partial`` scan is known to show lungs in part, so that gets no remark."""
    if lungs is None:
        yield f"{remarks.NO_LUNGS} in the body: in no split"
        return
    if lungs.foot_cut or lungs.head_cut:
        ends = [name for name, is_cut in (("foot end", lungs.foot_cut), ("head end", lungs.head_cut)) if is_cut]
        yield f"{remarks.CUT} at the {' and the '.join(ends)}"
    if lungs.in_part and not partial:
        yield f"{remarks.IN_PART}: cut where they are widest, so this is no chest: in no split"
    if not lungs.in_part and upright.is_upside_down(scan.hu, mask, scan.affine, on_lungs):
        yield remarks.UPSIDE_DOWN
    if lungs.litres < _LEAST_LITRES:
        yield f"{lungs.litres:.1f} litres of lung"


def _cube_checks(
    scan: Scan, mask: HostMask, middle: tuple[float, float, float], field_mm: float, partial: bool, whole: bool
) -> Iterator[str]:
    """Yield remarks on how the scan fills the cube; with ``whole`` all of it does, whatever its size."""
    outside = max(_outside(mask, axis, middle[axis], field_mm / scan.spacing_mm[axis]) for axis in (1, 2))
    if partial:
        covered = scan.hu.shape[0] * scan.spacing_mm[0]
        yield f"{remarks.PARTIAL}: {covered:.0f} of {field_mm:g} mm foot to head: in no split without --keep_partial"
    if max(scan.spacing_mm) > _COARSE_MM:
        yield f"coarse: steps of {max(scan.spacing_mm):.3g} mm"
    extent = [n * mm for n, mm in zip(scan.hu.shape, scan.spacing_mm, strict=True)]
    if whole and max(abs(mm - field_mm) for mm in extent) > _SAME_EDGE_MM:
        yield f"not a cube of {field_mm:g} mm: {' x '.join(f'{mm:.0f}' for mm in extent)} mm were taken for one"
    if not whole and outside > _CUT_OFF:
        yield f"{outside:.0%} of the body lie beside the cube"


def _outside(mask: HostMask, axis: int, middle: float, width: float) -> float:
    """Return the share of the mask that lies more than half of ``width`` voxels from ``middle`` along an axis."""
    counts = mask.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.int64)
    far = abs(np.arange(len(counts)) - middle) > width / 2
    return float(counts[far].sum() / counts.sum())
