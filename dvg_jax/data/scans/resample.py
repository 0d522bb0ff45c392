"""Cut a cube out of a volume and resize it: area averages of the linear interpolant, axis by axis."""

import numpy as np
from jaxtyping import Float

from dvg_jax.ct.frame import Affine, HostVolume, NewHostVolume, spacing


def resample_cube(
    volume: HostVolume, affine: Affine, centre: tuple[float, float, float], field_mm: float, size: int
) -> tuple[NewHostVolume, Affine]:
    """Cut a cube out of a volume and resize it.

    Each new voxel is the mean, over its own extent, of the linear interpolant of the old ones: down-sampling
    does not alias, up-sampling is linear, and a constant stays the constant. Beyond the scan's outermost
    voxel centres values fall to 0 within one voxel, so pass values whose background is 0.

    Args:
      volume: values (D, H, W) with background 0.
      affine: ``(d, h, w)`` to RAS mm.
      centre: index (d, h, w) of the cube's middle, fractional.
      field_mm: edge of the cube in mm.
      size: voxels along each axis.

    Returns:
      The cube, and its affine: both arrays overlay in world space.
    """
    step = field_mm / size
    corner = np.array(centre) - np.array([field_mm / 2 / mm for mm in spacing(affine)])
    edges = [corner[axis] + np.arange(size + 1) * step / mm for axis, mm in enumerate(spacing(affine))]
    along_d, along_h, along_w = (_weights(edge, n) for edge, n in zip(edges, volume.shape, strict=True))
    # In float64: the last bits of a sum depend on how many threads share it, and in float32 they show in rounded HU.
    slices = np.stack([along_h @ plane.astype(np.float64) @ along_w.T for plane in volume])
    cube = np.tensordot(along_d, slices, axes=1).astype(np.float32)
    follow = np.eye(4)
    for axis, edge in enumerate(edges):
        follow[axis, axis] = edge[1] - edge[0]
        follow[axis, 3] = (edge[0] + edge[1]) / 2
    return cube, affine @ follow


def _weights(edges: np.ndarray, length: int) -> Float[np.ndarray, "size length"]:
    """Return in row i the weight of each old voxel, a hat of half-width 1 at its index, in the mean over cell i."""
    upto = _hat_integral(edges[:, None] - np.arange(length))
    return np.diff(upto, axis=0) / np.diff(edges)[:, None]


def _hat_integral(x: np.ndarray) -> np.ndarray:
    """Return the integral of max(0, 1 - abs(t)) from -infinity to x."""
    x = np.clip(x, -1, 1)
    return 0.5 + x - np.sign(x) * x**2 / 2
