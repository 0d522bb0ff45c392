"""Convert between Hounsfield units and the intensities in [0, 1] that networks use.

This module does not import JAX, because preparing scans needs none.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

HU_OFFSET = 1024.0
HU_RANGE = 2500.0

WINDOWS = {"lung": (-600.0, 1500.0), "soft tissue": (40.0, 400.0), "bone": (400.0, 1800.0)}
"""Window level and width in HU that radiologists use for a chest."""

AnyArray = TypeVar("AnyArray", np.ndarray, "jax.Array")


def hu_to_intensity(hu: AnyArray) -> AnyArray:
    """Return ``clip(HU + 1024, 0, 2500) / 2500``: air is 0, water 0.41, dense bone 1."""
    return (hu + HU_OFFSET).clip(0, HU_RANGE) / HU_RANGE


def intensity_to_hu(intensity: AnyArray) -> AnyArray:
    """Invert :func:`hu_to_intensity`; the range is -1024 to 1476 HU."""
    return intensity * HU_RANGE - HU_OFFSET
