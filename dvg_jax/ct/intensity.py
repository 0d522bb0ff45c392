"""Between Hounsfield units and what networks see. Does not import JAX: preparing scans needs none."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

HU_OFFSET = 1024.0
HU_RANGE = 2500.0

WINDOWS = {"lung": (-600.0, 1500.0), "soft tissue": (40.0, 400.0), "bone": (400.0, 1800.0)}
"""Level and width in HU, as radiologists set them for a chest."""

AnyArray = TypeVar("AnyArray", np.ndarray, "jax.Array")


def hu_to_intensity(hu: AnyArray) -> AnyArray:
    """``clip(HU + 1024, 0, 2500) / 2500``: air 0, water 0.41, dense bone 1."""
    return (hu + HU_OFFSET).clip(0, HU_RANGE) / HU_RANGE


def intensity_to_hu(intensity: AnyArray) -> AnyArray:
    """The inverse: -1024 to 1476 HU."""
    return intensity * HU_RANGE - HU_OFFSET
