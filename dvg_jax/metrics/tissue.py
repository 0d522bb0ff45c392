"""Measure the error by tissue: where in the CT a method is wrong.

A voxel belongs to the band of its TRUE value, rounded to whole HU, so that a method cannot move voxels between bands.
The five bands are disjoint and cover the window of -1024 to 1476 HU.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.ct.intensity import HU_RANGE, intensity_to_hu
from dvg_jax.shapes import Volume


@dataclass(frozen=True)
class Band:
    """Define a tissue by ``low_hu`` <= HU < ``high_hu``."""

    name: str
    low_hu: float
    high_hu: float

    @property
    def figure(self) -> str:
        """Return the name of the column with this band's error."""
        return f"mae_hu_{self.name}"


AIR_LIMIT, FAT_LOW, SOFT_LOW, BONE_LOW = -950.0, -190.0, -29.0, 151.0

BANDS = (
    Band("air", -jnp.inf, AIR_LIMIT),
    Band("lung", AIR_LIMIT, FAT_LOW),
    Band("fat", FAT_LOW, SOFT_LOW),
    Band("soft", SOFT_LOW, BONE_LOW),
    Band("bone", BONE_LOW, jnp.inf),
)
"""Sources. Air: lung under -950 HU is emphysema, not parenchyma (Gevenois et al. 1995, Am J Respir Crit Care Med
152:653). Fat -190 to -30 and muscle -29 to 150 HU: the limits of body composition by CT (Mitsiopoulos et al. 1998,
J Appl Physiol 85:115). Between lung and fat lie poorly aerated lung and the rims of lungs, which count as lung.
Everything denser than muscle counts as bone, also vessels with contrast medium.
"""


def mae_hu_by_band(truth: Volume, result: Volume) -> Float[Array, "5"]:
    """Return the mean absolute error in HU over the voxels of each of ``BANDS``; NaN where the truth has none."""
    hu = jnp.round(intensity_to_hu(truth))
    error = HU_RANGE * jnp.abs(result - truth)
    inside = jnp.stack([(hu >= band.low_hu) & (hu < band.high_hu) for band in BANDS])
    # Without voxels this is 0 / 0, the NaN that we want.
    return jnp.sum(jnp.where(inside, error, 0), axis=(1, 2, 3)) / jnp.sum(inside, axis=(1, 2, 3))
