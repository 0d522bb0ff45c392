"""Hold the mean chest and its lungs, from whose views films are framed.

    python -m dvg_jax.data.films.mean_chest

draws them anew (``mean_chest.npz``, 170 kB), which is needed after a change of the phantom. They are stored because
drawing them took most of the time before the first film was framed.
"""

from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import SimpleITK
from jaxtyping import UInt8

from dvg_jax.ct.frame import FIELD_MM, HostVolume
from dvg_jax.ct.intensity import HU_OFFSET, hu_to_intensity, intensity_to_hu
from dvg_jax.data.phantom import chest
from dvg_jax.data.scans.body import body_mask

FILE = Path(__file__).with_name("mean_chest.npz")

SIZE = 64
"""The mean has so many voxels along each axis. At 32, without a chest wall, real frontal films score 0.45, not 0.6."""
CASES = 8
"""So many phantoms make the mean. A finding of one of so few would be a blot in it, so they are plain."""
STEP_HU = 6.0
"""The stored mean counts in steps of this. The air around the body, 24 HU above the least value, is a whole number."""
RIND_MM = 15.0
"""In a rim of the body as thick as this, air does not count as lung: at the skin, voxels are half air."""
LUNG_HU = -500.0

plain_chest = jax.jit(partial(chest, size=SIZE, plain=True))
"""Draw a chest (D, H, W) without findings, with lungs in the place where prepared scans have them."""

Stored = UInt8[np.ndarray, "64 64 64"]


@cache
def stored_mean() -> tuple[HostVolume, HostVolume]:
    """Return the mean intensity of the phantoms, and at each voxel the share of them whose lungs cover it."""
    with np.load(FILE) as file:
        steps, lungs = file["steps"], file["lungs"]
    return hu_to_intensity(steps * np.float32(STEP_HU) - np.float32(HU_OFFSET)), lungs / np.float32(CASES)


def draw_mean() -> tuple[Stored, Stored]:
    """Draw the mean of the phantoms anew, as the file stores it: steps of HU, and the number of lungs at each voxel."""
    chests = np.stack([np.asarray(plain_chest(jax.random.key(case))) for case in range(CASES)])
    above = intensity_to_hu(chests.mean(axis=0, dtype=np.float64)) + HU_OFFSET
    lungs = np.stack([_lungs(one) for one in chests]).sum(axis=0, dtype=np.uint8)
    return np.rint(above / STEP_HU).astype(np.uint8), lungs


def _lungs(volume: HostVolume) -> np.ndarray:
    """Return a mask (D, H, W) of the air in the body of a cube."""
    spacing = FIELD_MM / volume.shape[0]
    hu = np.asarray(intensity_to_hu(volume))
    body = SimpleITK.GetImageFromArray(body_mask(hu, (spacing,) * 3).astype(np.uint8))
    inside = SimpleITK.GetArrayFromImage(SimpleITK.BinaryErode(body, (max(1, round(RIND_MM / spacing)),) * 3))
    return (inside > 0) & (hu < LUNG_HU)


if __name__ == "__main__":
    steps, lungs = draw_mean()
    np.savez_compressed(FILE, steps=steps, lungs=lungs)
