"""Pre-process a CT as the published code does: ``prepare --preset published``, for the weights trained with it.

That code expects X2CT-GAN's cubes of 320 mm. It knows no spacing and no anatomy: a CT is resized from edge to edge.
"""

import numpy as np
from jaxtyping import Shaped
from scipy import ndimage

from dvg_jax.ct.frame import Affine, HostVolume, NewHostVolume
from dvg_jax.ct.intensity import HU_OFFSET, HU_RANGE
from dvg_jax.errors import UserError

DECIMALS = 6


def prepare_ct(raw: Shaped[np.ndarray, "d h w"], shape: tuple[int, int, int] = (128, 128, 128)) -> HostVolume:
    """Resize a CT, clip it to 0..2500, divide by 2500 and round to 6 decimals: float32 in [0, 1].

    ``raw`` is in HU shifted so that air is 0. Raises UserError unless it has three axes and finite values.
    """
    if raw.ndim != 3 or raw.size == 0:
        raise UserError(f"CT has shape {raw.shape}; allowed: three axes, none of them empty")
    if not np.isfinite(raw).all():
        raise UserError("CT has values that are not finite; allowed: HU shifted so that air is 0")
    resized = ndimage.zoom(raw, [new / old for old, new in zip(raw.shape, shape, strict=True)], order=1)
    return np.round(np.clip(resized, 0, HU_RANGE) / HU_RANGE, DECIMALS).astype(np.float32)


def prepare_cube(hu: HostVolume, affine: Affine, size: int) -> tuple[NewHostVolume, Affine]:
    """Resize a whole CT in the frame to ``size`` voxels an axis; in the affine the outermost voxels keep their places.

    The published code sees the head first, so D is reversed on the way: in a few sizes the last plane is lost.
    """
    volume = prepare_ct((hu + HU_OFFSET)[::-1], (size, size, size))[::-1]
    steps = [(n - 1) / max(size - 1, 1) for n in hu.shape]
    return volume, affine @ np.diag([*steps, 1.0])
