"""Project and back-project with every quirk of the published code, for the weights that were trained with it.

The functions are those of :mod:`dvg_jax.xray.projector`, with other numbers. Lengths along a ray are in voxels. Nodes
lie every 0.1 voxel from where a ray enters the box of voxels, and one where it leaves. Differences from the default:

* the forward projection takes voxel i to be at i, the back projection at i + 1/2: half a voxel apart;
* the forward projection gives its first node full weight, and divides by 10;
* the back projection is a scatter of the image along the rays, times 10, not Eq. (1);
* a node counts when it has eight neighbours after truncation towards zero: nothing beyond the upper faces, and a
  linear extrapolation within half a voxel of the lower ones;
* the position along a ray is a running float32 sum, whose steps are 0.099976 where the ray is 512 to 2048 voxels long:
  everything is 1.000244 times too large, and nodes near a face fall on one or the other side of it.

Single nodes near a face change border voxels by per cents, so the float32 arithmetic of the published code is
followed operation by operation, always: exact steps would visit as many nodes, no faster. With a pose given as a NumPy
array, images and volumes agree with the published kernels to 2e-6 of their maximum. For a JAX array the rays are
computed on the device, where products and sums may be fused: 2e-5 for images and 1e-4 for volumes.

The published code has the head at index 0 of D. Half a voxel lies to the side of lower indices, so this matters here:
``DVG`` with ``head_first`` turns volumes and images before they come here and after. These functions turn nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Num

from dvg_jax.shapes import Image, Pose, Poses, Projections, Volume
from dvg_jax.xray.geometry import ConeBeamGeometry, box_crossing, rotation

STEP_VOXELS = 0.1
"""Distance between the nodes of a ray."""

LEAST_STEP_VOXELS = 0.099
"""Lower bound of a step after rounding, on rays shorter than 16384 voxels."""

FORWARD_SCALE = 0.1
BACK_SCALE = 10.0

Visit = Callable[[Array, Array, Array], Array]
"""(running total, position along each ray, weight of the node there) -> running total."""


@dataclass(frozen=True)
class _Rays:
    """Hold one ray a pixel, in voxels from the corner of voxel 0; NumPy arrays where the pose is one.

    Attributes:
      source: (3,)
      direction: of unit length, (h, w, 3).
      entry, leave: distance from the source to the box; both 0 for rays that miss it, (h, w).
      mm: per voxel of length along the ray, (h, w).
      nodes: upper bound of the nodes of a ray.
    """

    source: Any
    direction: Any
    entry: Any
    leave: Any
    mm: Any
    nodes: int


def pose_from_published(numbers: Num[ArrayLike, "6"] | Sequence[float]) -> Pose:
    """Return the project's pose for the six numbers of the published code, which are all multiplied by pi there.

    ``-0.5`` as the first number is frontal, ``0`` lateral.
    """
    values = np.asarray(numbers, np.float64)
    return np.concatenate([180 * values[:3] + [90, 0, 0], np.pi * values[3:]])


def forward_project(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Return line integrals of a volume in value * cm, half a voxel off towards the lower faces.

    Args:
      volume: the values to integrate, (D, H, W).
      pose: of the view, from :func:`pose_from_published` or ``view_pose``.
      geometry: of source, volume and detector.
    """
    rays = _rays(pose, geometry)
    shape = geometry.volume_shape
    flat = jnp.asarray(volume, jnp.float32).reshape(-1)

    def visit(total: Array, along: Array, weight: Array) -> Array:
        start, fraction, counts = _cells(rays, along, 0.0, shape)
        value = sum(w * flat.at[start + o].get(mode="promise_in_bounds") for o, w in _corners(fraction, shape))
        return total + jnp.where(counts, weight, 0) * value

    total = _march(rays, STEP_VOXELS, visit, jnp.zeros(geometry.detector_shape, jnp.float32))
    return FORWARD_SCALE * total * rays.mm


def back_project(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    """Spread an image along its rays: about 14 where the image is 1 at the isocentre of the published geometry.

    The value grows with the number of rays that cross a voxel, so with the square of source_detector_mm over depth.

    Args:
      image: values of the detector's pixels, (h, w).
      pose: of the view, from :func:`pose_from_published` or ``view_pose``.
      geometry: of source, volume and detector.
    """
    rays = _rays(pose, geometry)
    shape = geometry.volume_shape
    value = BACK_SCALE * rays.mm * jnp.asarray(image, jnp.float32)

    def visit(flat: Array, along: Array, weight: Array) -> Array:
        start, fraction, counts = _cells(rays, along, 0.5, shape)
        share = jnp.where(counts, weight, 0) * value
        for offset, w in _corners(fraction, shape):
            flat = flat.at[start + offset].add(w * share, mode="promise_in_bounds")
        return flat

    flat = _march(rays, STEP_VOXELS / 2, visit, jnp.zeros(int(np.prod(shape)), jnp.float32))
    return flat.reshape(shape)


def forward_project_views(volume: Volume, poses: Poses, geometry: ConeBeamGeometry) -> Projections:
    """Return one image a pose.

    Args:
      volume: the values to integrate, (D, H, W).
      poses: (V, 6).
      geometry: of source, volume and detector.
    """
    return jnp.stack([forward_project(volume, pose, geometry) for pose in poses])


def back_project_views(images: Projections, poses: Poses, geometry: ConeBeamGeometry) -> Volume:
    """Return V_bp: the sum of the back projections of all views.

    Args:
      images: (V, h, w).
      poses: (V, 6).
      geometry: of source, volume and detector.
    """
    parts = [back_project(image, pose, geometry) for image, pose in zip(images, poses, strict=True)]
    return jnp.sum(jnp.stack(parts), axis=0)


def _march(rays: _Rays, first_weight: float, visit: Visit, total: Array) -> Array:
    """Visit the nodes of all rays at once, one node of each ray after the other, the last one where the ray leaves.

    Each position is the float32 sum of the last one and the step, so nodes are visited in order. Memory does not grow
    with the number of nodes.
    """
    entry, leave = jnp.asarray(rays.entry), jnp.asarray(rays.leave)

    @jax.checkpoint
    def node(carry: tuple[Array, Array, Array], is_first: Array) -> tuple[tuple[Array, Array, Array], None]:
        along, rest, total = carry
        following = along + STEP_VOXELS
        is_last = (along < leave) & (following >= leave)
        weight = jnp.where(is_first, first_weight, STEP_VOXELS)
        weight = weight + jnp.where(is_last, (leave - along - STEP_VOXELS) / 2, 0)
        weight = jnp.where(along < leave, weight, jnp.where(along == leave, rest / 2, 0))
        total = visit(total, along, weight)
        return (jnp.where(is_last, leave, following), jnp.where(is_last, leave - along, rest), total), None

    start = (entry, jnp.zeros_like(entry), total)
    (_, _, total), _ = jax.lax.scan(node, start, jnp.arange(rays.nodes) == 0)
    return total


def _cells(rays: _Rays, along: Array, offset: float, shape: tuple[int, int, int]) -> tuple[Array, Array, Array]:
    """Return the flat index (h, w) of each point's cell, its position there (h, w, 3), and whether it counts (h, w)."""
    # Clipping changes no value; it keeps compilers from fusing product and sum, which would round once, not twice.
    way = jnp.clip(along[..., None] * rays.direction, -1e9, 1e9)
    place = rays.source + way - offset
    cell = place.astype(jnp.int32)  # truncates towards zero: -1/2 is in cell 0
    counts = jnp.all((cell >= 0) & (cell < np.asarray(shape) - 1), axis=-1)
    strides = np.asarray([shape[1] * shape[2], shape[2], 1])
    return jnp.where(counts, jnp.sum(cell * strides, axis=-1), 0), place - cell, counts


def _corners(fraction: Array, shape: tuple[int, int, int]) -> list[tuple[int, Array]]:
    """Return the flat offset and trilinear weight (h, w) of the eight voxels around a point."""
    _, height, width = shape
    return [
        (
            (i * height + j) * width + k,
            (fraction[..., 0] if i else 1 - fraction[..., 0])
            * (fraction[..., 1] if j else 1 - fraction[..., 1])
            * (fraction[..., 2] if k else 1 - fraction[..., 2]),
        )
        for i, j, k in np.ndindex(2, 2, 2)
    ]


def _rays(pose: Pose, geometry: ConeBeamGeometry) -> _Rays:
    """Compute rays in float32 and in the published order of sums: other orders move border nodes across faces."""
    turn: Any = rotation(pose).astype(np.float32)
    xp = turn.__array_namespace__()
    shift = pose[3:].astype(np.float32) - np.asarray([0, 0, geometry.source_isocentre_mm], np.float32)
    voxel = np.asarray(geometry.voxel_mm, np.float32)
    shape = np.asarray(geometry.volume_shape, np.float32)
    source = (turn[0] * shift[0] + turn[1] * shift[1] + turn[2] * shift[2]) / voxel + shape / 2

    (h, w), (pixel_h, pixel_w) = geometry.detector_shape, geometry.pixel_mm
    far = geometry.source_detector_mm
    slope_h, slope_w = np.float32(pixel_h / far), np.float32(pixel_w / far)
    corner_h, corner_w = np.float32(-pixel_h * h / 2 / far), np.float32(-pixel_w * w / 2 / far)
    per_row, per_column = turn[0] * slope_h / voxel, turn[1] * slope_w / voxel
    middle = (turn[0] * corner_h + turn[1] * corner_w + turn[2]) / voxel
    rows, columns = (np.arange(n, dtype=np.float32)[:, None] + np.float32(0.5) for n in (h, w))
    direction = (rows * per_row)[:, None] + (columns * per_column + middle)
    x, y, z = (direction[..., axis] for axis in range(3))
    direction = direction * (np.float32(1) / xp.sqrt(x * x + y * y + z * z))[..., None]

    entry, leave = box_crossing(source, [direction[..., axis] for axis in range(3)], np.zeros(3, np.float32), shape)
    hit = entry < leave
    entry, leave = (xp.where(hit, distance, np.float32(0)) for distance in (entry, leave))
    longest = float(np.linalg.norm(shape)) if isinstance(pose, Array) else float(np.max(leave - entry))
    mm = xp.sqrt(((direction * voxel) ** 2).sum(axis=-1))
    return _Rays(source, direction, entry, leave, mm, nodes=int(longest / LEAST_STEP_VOXELS) + 3)
