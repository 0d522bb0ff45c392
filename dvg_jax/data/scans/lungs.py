"""Find the lungs in a scan: the largest one or two connected pieces of air in the body that are not gas.

air in the body --opened--> pieces --lung or gas by their HU--> the largest, and its neighbour --> Lungs
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK
from jaxtyping import Float

from dvg_jax.ct.frame import HostVolume, NewHostVolume
from dvg_jax.data.scans.body import HostMask

_AIR_HU = -500.0
_WORKING_MM = 2.0
_OPENED_MM = 4.0

_GAS_HU = -940.0
_ALMOST_ALL = 75
_ALMOST_ALL_HU = -930.0
"""Limit of gas. Measured medians are -951 to -992 HU in bowels and airways (one -928), -758 to -891 in lungs."""
_SMALL_ML = 250.0
_BLOB_MM = 6.0
_BLOB_ML = 20.0

_LEAST_ML = 50.0
_LEAST_OF_FIRST = 0.1
_LEAST_OF_BODY = 0.1
"""Least share of the body that lungs fill in some slice; a share suits children too."""

_CUT_CM2 = 100.0
"""Least air in the first or last slice of cut lungs: 23 whole thoraces have up to 75 cm^2, cut ones 150 and up."""
_LEAST_CUT_CM2 = 40.0
_WIDEST = 0.9
_LEAST_HEIGHT_MM = 120.0
_STRAY = 0.003

Profile = Float[np.ndarray, "D"]
Steps = tuple[float, float, float]


@dataclass(frozen=True)
class Lungs:
    """Describe the lungs of a scan, as far as they are visible.

    Attributes:
      middle: half-way between base and apex, as a (fractional) index along D.
      litres: volume of the air in them.
      foot_cut, head_cut: True if they go on beyond the scan's end.
      in_part: True if they are cut where they are widest and less than 120 mm are visible: an abdomen, a neck.
    """

    middle: float
    litres: float
    foot_cut: bool
    head_cut: bool
    in_part: bool


def find_lungs(hu: HostVolume, body: HostMask, spacing_mm: Steps) -> Lungs | None:
    """Find the lungs in a body; None where it shows none, such as a head or an abdomen.

    Air under -500 HU is opened by 4 mm, which removes air on the skin and separates lungs from neighbours behind a thin
    wall. The largest piece that is not gas is a lung. So is the next if it has a tenth of the first's volume and lies
    at its height. Gas below the diaphragm that a coarse scan joins with the lungs, in their lower half, is cut off. The
    work is done on means over about 2 mm.

    Args:
      hu: HU (D, H, W).
      body: mask of the body.
      spacing_mm: voxel size in mm along D, H, W.
    """
    strides = [max(1, round(_WORKING_MM / step)) for step in spacing_mm]
    depth, height, width = (step * stride for step, stride in zip(spacing_mm, strides, strict=True))
    steps = (depth, height, width)
    means = _means(hu, strides)
    inside = body[tuple(slice(stride // 2, None, stride) for stride in strides)][tuple(map(slice, means.shape))]
    air = inside & (means < _AIR_HU)
    lungs = _without_gas(_lungs_of(_opened(air, _OPENED_MM, steps), means, steps), means, steps)
    # Opening removes corners and thin parts: air next to the rest belongs to it.
    lungs = _grown(lungs, _OPENED_MM, steps) & air
    area = _areas(lungs, steps)
    if not (area > _LEAST_OF_BODY * _areas(inside, steps)).any():
        return None
    foot, head = _ends(area, _areas(air, steps))
    low, high = _between(area)
    return Lungs(
        middle=((low + high + 1) / 2) * strides[0] - 0.5,
        litres=float(area.sum() * depth / 1e4),
        foot_cut=foot,
        head_cut=head,
        in_part=bool(
            max(foot * area[0], head * area[-1]) > _WIDEST * area.max() and (high + 1 - low) * depth < _LEAST_HEIGHT_MM
        ),
    )


def _means(hu: HostVolume, strides: list[int]) -> NewHostVolume:
    """Average blocks of voxels, since noise of thin slices would break lungs up."""
    kept = hu[tuple(slice(n // stride * stride) for n, stride in zip(hu.shape, strides, strict=True))]
    for axis, stride in enumerate(strides):
        parts = [kept[(slice(None),) * axis + (slice(start, None, stride),)] for start in range(stride)]
        kept = parts[0] if stride == 1 else sum(parts[1:], parts[0]) / np.float32(stride)
    return kept


def _lungs_of(air: HostMask, means: HostVolume, steps: Steps) -> HostMask:
    """Return the lungs among the pieces of (opened) air; all False where there are none."""
    pieces = SimpleITK.RelabelComponent(SimpleITK.ConnectedComponent(_image(air)))
    labels, millilitre = SimpleITK.GetArrayFromImage(pieces), 1e3 / np.prod(steps)
    lungs = np.zeros_like(air)
    first = 0
    for label, size in enumerate(np.bincount(labels.ravel())[1:], start=1):
        if size < max(_LEAST_ML * millilitre, _LEAST_OF_FIRST * first):
            break  # sorted by size
        piece = labels == label
        if _is_gas(means[piece], size / millilitre):
            continue
        if not first:
            lungs, first = piece, size
        elif _at_height_of(piece, lungs):
            return lungs | piece
    return lungs


def _is_gas(values: np.ndarray, millilitres: float) -> bool:
    """Return True if a piece contains nothing but gas: stomach, bowel, airway.

    Lungs contain tissue, emphysematous ones too. Much of a small piece is wall in its outer voxels, so its median alone
    must decide.
    """
    middle, almost_all = np.percentile(values, (50, _ALMOST_ALL))
    return bool(middle < _GAS_HU and (millilitres < _SMALL_ML or almost_all < _ALMOST_ALL_HU))


def _at_height_of(piece: HostMask, first: HostMask) -> bool:
    """Return True if the middle of a piece is at the height of the first."""
    low, high = _between(first.sum(axis=(1, 2), dtype=np.float64))
    return low <= sum(_between(piece.sum(axis=(1, 2), dtype=np.float64))) / 2 <= high


def _without_gas(lungs: HostMask, means: HostVolume, steps: Steps) -> HostMask:
    """Remove stomach or bowel that the averaging of coarse slices joined with the lungs."""
    low, high = _between(lungs.sum(axis=(1, 2), dtype=np.float64))
    gas = lungs & (means < _GAS_HU)
    if np.count_nonzero(gas) * np.prod(steps) < _BLOB_ML * 1e3:
        return lungs
    blobs = SimpleITK.ConnectedComponent(_image(_opened(gas, _BLOB_MM, steps)))
    labels = SimpleITK.GetArrayFromImage(blobs)
    counts = np.bincount(labels.ravel())
    heights = np.bincount(labels.ravel(), np.repeat(np.arange(len(labels)), labels[0].size)) / np.maximum(counts, 1)
    large = counts * np.prod(steps) > _BLOB_ML * 1e3
    below = [n for n in range(1, len(counts)) if large[n] and heights[n] < (low + high) / 2]
    if not below:
        return lungs
    rest = lungs & ~_grown(np.isin(labels, below), _OPENED_MM + _BLOB_MM, steps)
    return _lungs_of(_opened(rest, _OPENED_MM, steps), means, steps)


def _ends(lungs: Profile, air: Profile) -> tuple[bool, bool]:
    """Return whether lungs extend beyond the foot and the head end; all air there counts if some belongs to them."""
    foot, head = (bool(air[end] > _CUT_CM2 and lungs[end] > _LEAST_CUT_CM2) for end in (0, -1))
    return foot, head


def _between(profile: np.ndarray) -> tuple[int, int]:
    """Return where a profile begins and ends, without 0.3 % of it at either end: a strand of airway does not count."""
    share = np.cumsum(profile) / max(profile.sum(), 1)
    return int(np.searchsorted(share, _STRAY)), int(np.searchsorted(share, 1 - _STRAY))


def _areas(mask: HostMask, steps: Steps) -> Profile:
    """Return the area of each axial slice in cm^2."""
    return mask.sum(axis=(1, 2)) * (steps[1] * steps[2] / 100)


def _opened(mask: HostMask, millimetres: float, steps: Steps) -> HostMask:
    opened = SimpleITK.BinaryMorphologicalOpening(_image(mask), _radius(millimetres, steps), SimpleITK.sitkBall)
    return SimpleITK.GetArrayFromImage(opened) > 0


def _grown(mask: HostMask, millimetres: float, steps: Steps) -> HostMask:
    grown = SimpleITK.BinaryDilate(_image(mask), _radius(millimetres, steps), SimpleITK.sitkBall)
    return SimpleITK.GetArrayFromImage(grown) > 0


def _image(mask: HostMask) -> SimpleITK.Image:
    return SimpleITK.GetImageFromArray(mask.astype(np.uint8))


def _radius(millimetres: float, steps: Steps) -> list[int]:
    """Return a radius in voxels, in ITK's order of axes."""
    return [max(1, round(millimetres / step)) for step in reversed(steps)]
