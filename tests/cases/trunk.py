"""Draw a synthetic trunk from pelvis to neck: lungs over domes of the diaphragm, airway, stomach and bowel gas."""

import numpy as np

from dvg_jax.ct.frame import frame_affine
from dvg_jax.data.scans.read import Scan

MM = 5.0
HEIGHT, DEPTH, WIDTH = 440.0, 240.0, 340.0
BASE, APEX = 180.0, 400.0
"""The lungs reach from base to apex, in mm above the scan's first slice."""
MIDDLE = (BASE + APEX) / 2

GAS, LUNG, TISSUE = -1000.0, -850.0, 40.0


def trunk(bowel: bool = True, stomach_wall_mm: float = 12.0, opaque_above: float | None = None) -> np.ndarray:
    """Draw the trunk in HU (D, H, W), 5 mm a voxel.

    The stomach's gas lies under the left dome, ``stomach_wall_mm`` below the lung. Above ``opaque_above`` mm the right
    lung contains no air.
    """
    shape = tuple(int(edge / MM) for edge in (HEIGHT, DEPTH, WIDTH))
    d, h, w = np.meshgrid(*((np.arange(n) + 0.5) * MM for n in shape), indexing="ij", sparse=True)
    h, w = h - DEPTH / 2, w - WIDTH / 2
    hu = np.full(shape, GAS, np.float32)
    wide = np.where(d < 400, 155, 70)  # shoulders end in the neck
    hu[(h / 108) ** 2 + (w / wide) ** 2 < 1] = TISSUE
    hu[((h - 70) ** 2 + w**2 < 20**2) & (d > 0)] = 400  # spine
    for side in (-1, 1):
        taper = 1 - 0.65 * np.clip((d - BASE) / (APEX - BASE), 0, 1) ** 2
        lung = (h / (75 * taper)) ** 2 + ((w - side * 70) / (52 * taper)) ** 2 < 1
        dome = BASE + 50 * np.exp(-(((h + 20) / 45) ** 2) - ((w - side * 70) / 45) ** 2)
        heart = ((d - 230) / 60) ** 2 + ((h + 30) / 50) ** 2 + ((w - 20) / 60) ** 2 < 1
        air = lung & (d > dome) & (d < APEX) & ~heart
        if side < 0 and opaque_above is not None:
            air = air & (d < opaque_above)
        hu[air] = LUNG
    hu[(h**2 + w**2 < 9**2) & (d > 320)] = GAS  # airway, out through the neck
    if bowel:
        hu[((d - 60) / 50) ** 2 + ((h + 40) / 40) ** 2 + (w / 110) ** 2 < 1] = GAS
    top = BASE + 50 - stomach_wall_mm
    stomach = ((d - top + 40) / 40) ** 2 + ((h + 20) / 40) ** 2 + ((w - 70) / 40) ** 2 < 1
    hu[stomach & (hu > LUNG)] = GAS
    return hu


def scan(hu: np.ndarray, step_mm: float = MM) -> Scan:
    """Make a scan with steps of ``step_mm`` along D and 5 mm across."""
    steps = (step_mm, MM, MM)
    return Scan(hu, steps, frame_affine(hu.shape, steps), "SPL")


def every_other(found: Scan) -> Scan:
    """Keep every other voxel of a real scan along each axis, which takes an eighth of the time."""
    affine = found.affine @ np.diag([2.0, 2, 2, 1])
    steps = found.spacing_mm[0] * 2, found.spacing_mm[1] * 2, found.spacing_mm[2] * 2
    return Scan(np.ascontiguousarray(found.hu[::2, ::2, ::2]), steps, affine, found.orientation)


def slices(hu: np.ndarray, low_mm: float, high_mm: float) -> np.ndarray:
    """Return the slices between two heights in mm."""
    return np.ascontiguousarray(hu[int(low_mm / MM) : int(high_mm / MM)])


def thick(hu: np.ndarray, times: int) -> np.ndarray:
    """Average slices ``times`` at a time, as a scanner's thick slices do."""
    kept = hu[: len(hu) // times * times]
    return np.ascontiguousarray(kept.reshape(-1, times, *hu.shape[1:]).mean(axis=1))
