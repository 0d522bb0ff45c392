"""Distinguish Hounsfield units from raw values, other scales, windows and wrapped integers.

values as read --padding left out--> samples --five questions--> a reason, or "" for HU

A person's CT has air under -500 HU, soft tissue within 250 of 0 and few brighter voxels; those, bone and metal, spread
over many values. Padding says nothing: many voxels share one exact value, or a few.

In 13 chest scans 85 % or more of the voxels that are not air were soft tissue, and 1 % or less of all voxels were
brighter than 500. The limits below stay far from both, so that heads, contrast, metal, noise and small fields of view
pass.
"""

from collections.abc import Callable

import numpy as np
import SimpleITK
from jaxtyping import Float

from dvg_jax.ct.frame import AIR_HU, HostVolume

Values = Float[np.ndarray, "n"]

LUNG_HU = -500.0
"""Upper limit of air, in lungs, bowels or around the body."""

_AIR, _NEAR_AIR = -1000.0, 100.0
_BONE_HU = 300.0
_SOFT_HU = 250.0
_BRIGHT_HU = 500.0
_BRIGHTEST_HU = 4500.0
_DEEP_HU = -1500.0
"""Lower limit of noise and streaks but for few voxels; scanners use lower values for padding only."""

_SPIKES = 4
_MOST_DRAWN = 8
_MOST_DEEP = 0.1
_LEAST_TISSUE = 0.002
_LEAST_SOFT = 0.02
_LEAST_SOFT_OF_TISSUE = 0.2
_MOST_BRIGHT = 0.05
_PEAK_HU = 200.0
_HEAP = 0.45
_SAMPLES = 2_000_000
_EDGE_SHARE = 0.75
_SAME_HU = 1.0
_UNEVEN_HU = 50.0

_OTHER_SCALES: dict[str, Callable[[Values], Values]] = {
    "HU + 1024, as stored before a rescale intercept": lambda v: v - 1024,
    "HU with its sign turned": lambda v: -v,
    "10 times HU": lambda v: v / 10,
    "HU - 1024, an intercept taken twice": lambda v: v + 1024,
    "HU whose negative values wrapped round 65536": lambda v: np.where(v > 32767, v - 65536, v),
    "HU / 1000": lambda v: v * 1000,
}


def padding_to_air(hu: HostVolume) -> tuple[HostVolume, tuple[str, ...]]:
    """Set voxels that were not measured to -1024 HU: lower values, and a constant fill around the field of view.

    A fill is a value that three quarters of the corners of all slices have exactly, which noise never gives. Voxels of
    that value that are connected with a corner are set. The notes say how many voxels were set.
    """
    notes = []
    fill = edge_fill(hu)
    if fill is not None and fill > LUNG_HU:
        outside = _connected(hu, fill)
        if outside.mean() < _EDGE_SHARE:
            hu = np.where(outside, np.float32(AIR_HU), hu)
            notes.append(f"{outside.mean():.1%} of voxels, {fill:g} throughout the corners, are taken for air")
    padded = np.count_nonzero(hu < AIR_HU) / hu.size
    if padded:
        hu = np.maximum(hu, AIR_HU)
        notes.append(f"padding ({padded:.1%} of voxels, under {AIR_HU:g} HU) is air")
    return hu, tuple(notes)


def edge_fill(hu: HostVolume) -> float | None:
    """Return the one value, to 1 HU, that the corners of most slices have; None where they are measured."""
    corners = hu[:, [0, 0, -1, -1], [0, -1, 0, -1]].ravel()
    middle = float(np.median(corners))
    return middle if np.mean(abs(corners - middle) <= _SAME_HU) >= _EDGE_SHARE else None


def why_no_hu(hu: HostVolume) -> str:
    """Return why values, padding included, cannot be HU; empty where they can. It samples about two million voxels."""
    stride = max(1, round((hu.size / _SAMPLES) ** (1 / 3)))
    samples = hu[::stride, ::stride, ::stride].ravel()
    fill = edge_fill(hu)
    measured = samples
    if fill is not None:  # filters that ran over deep padding leave it a little uneven
        measured = samples[abs(samples - fill) > (_UNEVEN_HU if fill < _DEEP_HU else _SAME_HU)]
    if measured.size < _LEAST_SOFT * samples.size:
        measured, fill = samples, None
    reason = _fault(measured, fill)
    if not reason:
        return ""
    seen = measured if fill is not None and fill < LUNG_HU else samples
    kept = seen[seen >= _DEEP_HU] if _is_padding(measured) else seen
    likely = next(
        (name for name, undo in _OTHER_SCALES.items() if _has_bone(values := undo(kept)) and not _fault(values)), ""
    )
    found = f"{reason}: values from {kept.min():g} to {kept.max():g}; allowed: HU, in which air is under {LUNG_HU:g}"
    return f"{found} (these look like {likely})" if likely else found


def _fault(values: Values, fill: float | None = None) -> str:
    if not _is_padding(values):
        return f"{np.mean(values < _DEEP_HU):.0%} of the voxels are below any air"
    values = values[values >= _DEEP_HU]
    tissue = values[values > LUNG_HU]
    if tissue.size <= _LEAST_TISSUE * values.size:
        return ""  # nothing but air: the search for a body reports that
    around = fill is not None and abs(fill - _AIR) <= _NEAR_AIR  # all air is one value, as where a body was cut out
    if tissue.size == values.size and not (around and (_has_bone(tissue) or _is_drawn(tissue))):
        return "no air"
    if np.mean(values > _BRIGHTEST_HU) > _MOST_BRIGHT:
        return f"{np.mean(values > _BRIGHTEST_HU):.0%} of the voxels are brighter than any bone"
    if peak := _bright_peak(values):
        return f"{peak[0]:.0%} of the voxels lie round {peak[1]:g}, where no tissue lies"
    soft = np.count_nonzero(abs(tissue) <= _SOFT_HU)
    if soft < _LEAST_SOFT * values.size or soft < _LEAST_SOFT_OF_TISSUE * tissue.size:
        return f"only {soft / tissue.size:.0%} of what is no air is near 0, where soft tissue lies"
    return ""


def _is_padding(values: Values) -> bool:
    """Return True if the values below any noise are padding: a few values with many voxels, not another scale."""
    deep = values[values < _DEEP_HU]
    counts = np.sort(np.unique(deep, return_counts=True)[1])[::-1]
    return int(counts[_SPIKES:].sum()) <= _MOST_DEEP * values.size


def _is_drawn(tissue: Values) -> bool:
    """Return True if a phantom was drawn with a few values, of which none need be bone."""
    return np.unique(tissue).size <= _MOST_DRAWN


def _has_bone(tissue: Values) -> bool:
    return float(np.quantile(tissue, 0.9999)) > _BONE_HU


def _bright_peak(values: Values) -> tuple[float, float] | None:
    """Return share and place of a peak of bright values: bone and metal spread, a shifted tissue does not."""
    bright = values[values > _BRIGHT_HU]
    if bright.size < _MOST_BRIGHT * values.size:
        return None
    steps = np.bincount(((bright - _BRIGHT_HU) / (_PEAK_HU / 4)).astype(np.int64).clip(max=2**16))
    heaps = np.convolve(steps, np.ones(4, np.int64))
    highest = int(heaps.argmax())
    if heaps[highest] < max(_MOST_BRIGHT * values.size, _HEAP * bright.size):
        return None
    return heaps[highest] / values.size, _BRIGHT_HU + (highest - 1) * _PEAK_HU / 4


def _connected(hu: HostVolume, value: float) -> np.ndarray:
    """Return a mask of the voxels of ``value`` that are connected with a corner of a slice."""
    depth, height, width = hu.shape
    seeds = [
        (w, h, d)
        for d in range(depth)
        for h in (0, height - 1)
        for w in (0, width - 1)
        if abs(hu[d, h, w] - value) <= _SAME_HU
    ]
    found = SimpleITK.ConnectedThreshold(SimpleITK.GetImageFromArray(hu), seeds, value - _SAME_HU, value + _SAME_HU, 1)
    return SimpleITK.GetArrayFromImage(found) > 0
