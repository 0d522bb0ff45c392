"""Detect a chest that is upside down: compare it with the mean phantom, as it is and with its ends exchanged.

    python -m dvg_jax.data.scans.upright

draws the mean anew (``mean_phantom.npy``, 2.6 kB), which is needed after a change of the phantom. It is stored because
preparing imports no JAX. Left and right cannot be checked this way: a mirrored chest is as like the mean as the chest
itself.
"""

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from dvg_jax.ct.frame import AIR_HU, FIELD_MM, Affine, HostVolume, spacing
from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.scans.body import HostMask
from dvg_jax.data.scans.resample import resample_cube

FILE = Path(__file__).with_name("mean_phantom.npy")

_SIZE = 16
_ROWS = slice(3, 13)
"""Rows that cover 200 mm around the lungs' middle, so that the extent of the scan beyond does not matter."""
_WORKING_MM = 4.0
_PHANTOMS = 64
_CLEARLY = 0.01
"""Least margin. Real scans and phantoms have 0.05 and more; a volume with two like ends has nearly none."""


def is_upside_down(hu: HostVolume, body: HostMask, affine: Affine, middle: tuple[float, float, float]) -> bool:
    """Return True if the flip of a chest is clearly more like the mean phantom than the chest; see :func:`margin`.

    Args:
      hu: HU (D, H, W).
      body: mask of the body.
      affine: ``(d, h, w)`` to RAS mm.
      middle: index in D of the lungs' middle, in H and W of the body's.
    """
    return margin(hu, body, affine, middle) < -_CLEARLY


def margin(hu: HostVolume, body: HostMask, affine: Affine, middle: tuple[float, float, float]) -> float:
    """Return how much more like the mean phantom a chest is than its flip; below 0 if it is upside down.

    Args:
      hu: HU (D, H, W).
      body: mask of the body.
      affine: ``(d, h, w)`` to RAS mm.
      middle: index in D of the lungs' middle, in H and W of the body's.

    Returns:
      Difference of two correlations.
    """
    strides = [max(1, round(_WORKING_MM / step)) for step in spacing(affine)]
    every = tuple(slice(stride // 2, None, stride) for stride in strides)
    coarse = np.asarray(hu_to_intensity(np.where(body[every], hu[every], AIR_HU)), np.float32)
    scaled = affine @ np.diag([*strides, 1.0])
    scaled[:3, 3] = (affine @ [*(stride // 2 for stride in strides), 1.0])[:3]
    place = [(index - stride // 2) / stride for index, stride in zip(middle, strides, strict=True)]
    cube, _ = resample_cube(coarse, scaled, (place[0], place[1], place[2]), FIELD_MM, _SIZE)
    chest, mean = cube[_ROWS], stored_mean()
    return _correlation(chest, mean) - _correlation(chest[::-1], mean)


@cache
def stored_mean() -> Float[np.ndarray, "10 16 16"]:
    """Return the mean phantom's middle 200 mm foot to head, in [0, 1], voxels of 20 mm."""
    return np.load(FILE).astype(np.float32) / 255


def draw_mean() -> UInt8[np.ndarray, "10 16 16"]:
    """Draw the mean of 64 plain phantoms anew with JAX, scaled as the file stores it."""
    import jax

    from dvg_jax.data.phantom import chest

    draw = jax.jit(lambda number: chest(jax.random.fold_in(jax.random.key(0), number), _SIZE, plain=True))
    middle = np.stack([np.asarray(draw(number))[_ROWS] for number in range(_PHANTOMS)])
    return np.rint(255 * middle.mean(axis=0, dtype=np.float64)).astype(np.uint8)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlate the values of two arrays; 0 where one of them is constant."""
    a, b = (array - array.mean(dtype=np.float64) for array in (a, b))
    norms = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norms if norms else 0.0


if __name__ == "__main__":
    np.save(FILE, draw_mean())
