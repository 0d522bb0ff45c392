"""Project and back-project any pose: one ray and one voxel, mapped over pixels and voxels by ``jax.vmap``.

The functions are differentiable in volume, image and pose. They can be mapped over views and batches in the same way.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from dvg_jax.shapes import Image, Pose, Volume
from dvg_jax.xray.geometry import (
    ConeBeamGeometry,
    box_crossing,
    detector_slopes,
    rotation,
    source_position,
    voxel_centres,
)

SAMPLES_AT_ONCE = 16
"""Samples of each ray that are stored at a time; memory does not grow with their number."""


def forward_project_rays(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Project a volume ray by ray: see :func:`dvg_jax.xray.projector.forward_project`.

    Args:
      volume: the values to integrate, (D, H, W).
      pose: any pose, (6,).
      geometry: of source, volume and detector.
    """
    turn, source = (jnp.asarray(x, jnp.float32) for x in (rotation(pose), source_position(pose, geometry)))
    # A voxel of zeros around the volume makes every neighbour's index valid.
    padded = jnp.pad(volume.astype(jnp.float32), 1)

    def pixel(row: Array, column: Array) -> Array:
        direction = row * turn[0] + column * turn[1] + turn[2]
        return integrate_ray(padded, source, direction / jnp.linalg.norm(direction), geometry)

    rows, columns = map(jnp.asarray, detector_slopes(geometry))
    return jax.vmap(jax.vmap(pixel, (None, 0)), (0, None))(rows, columns)


def back_project_rays(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    """Spread an image voxel by voxel: see :func:`dvg_jax.xray.projector.back_project`.

    Args:
      image: values of the detector's pixels, (h, w).
      pose: any pose, (6,).
      geometry: of source, volume and detector.
    """
    turn, source = (jnp.asarray(x, jnp.float32) for x in (rotation(pose), source_position(pose, geometry)))
    image = image.astype(jnp.float32)

    def voxel(d: Array, h: Array, w: Array) -> Array:
        return spread_to_voxel(image, turn, source, (d, h, w), geometry)

    lines = jax.vmap(voxel, (None, None, 0))
    planes = jax.vmap(lines, (None, 0, None))
    return jax.vmap(planes, (0, None, None))(*(jnp.asarray(axis, jnp.float32) for axis in voxel_centres(geometry)))


def integrate_ray(
    padded: Float[Array, "d h w"],
    source: Float[Array, "3"],
    direction: Float[Array, "3"],
    geometry: ConeBeamGeometry,
) -> Float[Array, ""]:
    """Integrate a volume along one ray, Eq. (9), by ``samples_per_ray`` midpoints between entry and exit.

    Args:
      padded: the volume, with a voxel of zeros around it.
      source: where the ray starts, in mm from the volume's centre.
      direction: of the ray, of unit length.
      geometry: where the volume is, and how many samples are taken.
    """
    half, voxel = np.array(geometry.extent_mm, np.float32) / 2, np.array(geometry.voxel_mm, np.float32)
    entry, leave = box_crossing(source, direction, -half, half)
    step = (leave - entry) / geometry.samples_per_ray

    @jax.checkpoint
    def chunk(first: Array) -> Array:
        total = jnp.zeros(())
        for k in range(SAMPLES_AT_ONCE):
            place = source + (entry + (first + k + 0.5) * step) * direction
            value = _trilinear(padded, (place + half) / voxel + 0.5)
            total += jnp.where(first + k < geometry.samples_per_ray, value, 0)
        return total

    starts = jnp.arange(0, geometry.samples_per_ray, SAMPLES_AT_ONCE)
    total, _ = jax.lax.scan(lambda total, first: (total + chunk(first), None), jnp.zeros(()), starts)
    return total * step


def spread_to_voxel(
    image: Image,
    turn: Float[Array, "3 3"],
    source: Float[Array, "3"],
    centre: tuple[Array, Array, Array],
    geometry: ConeBeamGeometry,
) -> Float[Array, ""]:
    """Return one voxel of a back projection, Eq. (1): the image where its ray ends, over the ray's length inside.

    Args:
      image: values of the detector's pixels.
      turn: the rotation from the world's axes to the detector's.
      source: in mm from the volume's centre.
      centre: of the voxel, in mm from the volume's centre.
      geometry: of volume and detector.
    """
    offset = [c - s for c, s in zip(centre, source, strict=True)]
    row, column, depth = (axis[0] * offset[0] + axis[1] * offset[1] + axis[2] * offset[2] for axis in turn)
    scale = geometry.source_detector_mm / depth
    (height, width), (pixel_h, pixel_w) = geometry.detector_shape, geometry.pixel_mm
    value = _bilinear(image, row * scale / pixel_h + height / 2 - 0.5, column * scale / pixel_w + width / 2 - 0.5)
    half = np.array(geometry.extent_mm, np.float32) / 2
    entry, leave = box_crossing(source, offset, -half, half)
    return value / ((leave - entry) * jnp.sqrt(sum(o**2 for o in offset)))


def _trilinear(padded: Float[Array, "d h w"], index: Float[Array, "3"]) -> Float[Array, ""]:
    """Interpolate along W on the four lines around ``index``, then between them; zero beyond the padding."""
    limit = np.array(padded.shape, np.float32) - 1
    index = jnp.clip(index, 0, limit)
    cell = jnp.minimum(jnp.floor(index), limit - 1)
    (d, h, w), (a, b, c) = cell.astype(jnp.int32), index - cell
    _, height, width = padded.shape
    flat, start = padded.reshape(-1), (d * height + h) * width + w
    total = jnp.zeros(())
    for i, j in np.ndindex(2, 2):
        at = start + (i * height + j) * width
        total += (a if i else 1 - a) * (b if j else 1 - b) * ((1 - c) * flat[at] + c * flat[at + 1])
    return total


def _bilinear(image: Image, u: Float[Array, ""], v: Float[Array, ""]) -> Float[Array, ""]:
    """Interpolate at row ``u`` and column ``v``; zero outside the detector. Edge pixels extend to their outer edge."""
    height, width = image.shape
    seen = (u >= -0.5) & (u <= height - 0.5) & (v >= -0.5) & (v <= width - 0.5)
    u, v = jnp.clip(u, 0, height - 1), jnp.clip(v, 0, width - 1)
    r = jnp.clip(jnp.floor(u), 0, max(height - 2, 0)).astype(jnp.int32)
    c = jnp.clip(jnp.floor(v), 0, max(width - 2, 0)).astype(jnp.int32)
    a, b = u - r, v - c
    down, right = min(1, height - 1) * width, min(1, width - 1)
    flat, start = image.reshape(-1), r * width + c
    top = (1 - b) * flat[start] + b * flat[start + right]
    bottom = (1 - b) * flat[start + down] + b * flat[start + down + right]
    return jnp.where(seen, (1 - a) * top + a * bottom, 0)
