"""Between Hounsfield units and what networks see. Does not import JAX: preparing scans needs none."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

HU_OFFSET = 1024.0
HU_RANGE = 2500.0

AnyArray = TypeVar("AnyArray", np.ndarray, "jax.Array")


def hu_to_intensity(hu: AnyArray) -> AnyArray:
    """``clip(HU + 1024, 0, 2500) / 2500``: air 0, water 0.41, dense bone 1."""
    return (hu + HU_OFFSET).clip(0, HU_RANGE) / HU_RANGE


def intensity_to_hu(intensity: AnyArray) -> AnyArray:
    """The inverse: -1024 to 1476 HU."""
    return intensity * HU_RANGE - HU_OFFSET
