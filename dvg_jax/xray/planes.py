"""Project any pose by planes of voxels (Joseph 1982), and transpose that exactly, both by gathers alone.

A ray is sampled where it crosses each plane of voxels along its main axis: bilinearly within the plane, linearly
between planes, integrated from where it enters the volume to where it leaves. The transpose turns this round: a voxel
of a plane collects from the few pixels whose rays cross the plane less than a voxel away. Nothing is scattered, so that
results are the same bits each time, on a GPU too.

With respect to volume or image, the gradient of one direction is the other. With respect to the pose it is one more sum
over the same samples. Both can be differentiated repeatedly, in reverse, and mapped by ``jax.vmap``. Only the gradient
of a pose's gradient with respect to the volume is left to JAX, which scatters.

One sample a plane suffices where voxels are nearly cubes. At 45 degrees a smooth volume of 24 voxels is 0.4 % rms from
many samples a ray, and 1, 3 and 5 % where the voxels are 2, 3 and 4 times as long along the beam's main axis.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from dvg_jax.shapes import Image, Pose, Volume
from dvg_jax.xray.crossings import ORDERS, Crossings, Frame
from dvg_jax.xray.geometry import ConeBeamGeometry, detector_slopes

PLANES_AT_ONCE = 4
"""One step of a loop takes so many planes: memory does not grow with their number."""


def forward_project_planes(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Project a volume plane by plane: see :func:`dvg_jax.xray.projector.forward_project`.

    A volume that is not a cube is padded to one, so that its axes can change places at run time.

    Args:
      volume: the values to integrate, (D, H, W).
      pose: any pose, (6,).
      geometry: of source, volume and detector, for which ``all_rays_cross`` holds.
    """
    return _project(jnp.asarray(volume, jnp.float32), jnp.asarray(pose, jnp.float32), geometry)


def transpose_planes(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    """Return the transpose of :func:`forward_project_planes` applied to an image.

    Args:
      image: values of the detector's pixels, (h, w).
      pose: any pose, (6,).
      geometry: of source, volume and detector, for which ``all_rays_cross`` holds.
    """
    return _transpose(jnp.asarray(image, jnp.float32), jnp.asarray(pose, jnp.float32), geometry)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _project(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    return sum_planes(volume, pose, geometry)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _transpose(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    return _collect(image, pose, geometry)


Kept = tuple[Array, Pose]
"""Gradients are computed from the volume or image, and the pose."""


def _project_and_keep(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> tuple[Image, Kept]:
    return _project(volume, pose, geometry), (volume, pose)


def _pull_projection(geometry: ConeBeamGeometry, kept: Kept, image: Image) -> tuple[Volume, Pose]:
    volume, pose = kept
    return _transpose(image, pose, geometry), _pull_pose(volume, pose, image, geometry)


def _transpose_and_keep(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> tuple[Volume, Kept]:
    return _transpose(image, pose, geometry), (image, pose)


def _pull_transpose(geometry: ConeBeamGeometry, kept: Kept, volume: Volume) -> tuple[Image, Pose]:
    image, pose = kept
    return _project(volume, pose, geometry), _pull_pose(volume, pose, image, geometry)


_project.defvjp(_project_and_keep, _pull_projection)
_transpose.defvjp(_transpose_and_keep, _pull_transpose)


def sum_planes(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Compute :func:`forward_project_planes` without gradients of its own."""
    frame = Frame.of(pose, geometry)
    crossings, planes = Crossings.of(frame, geometry), _arranged(volume, frame)
    total, _ = jax.lax.scan(
        lambda total, first: (total + _samples(planes, first, crossings, frame), None),
        jnp.zeros(geometry.detector_shape),
        jnp.arange(0, len(planes), PLANES_AT_ONCE),
    )
    return total * crossings.length


def _pull_pose(volume: Volume, pose: Pose, image: Image, geometry: ConeBeamGeometry) -> Pose:
    """Return the gradient of <image, projection of volume> with respect to the pose.

    Rays do not depend on each other, so one pass over the planes sums the derivatives of each ray's crossings.
    """
    frame = Frame.of(pose, geometry)
    crossings, pull = jax.vjp(lambda pose: Crossings.of(Frame.of(pose, geometry), geometry), pose)
    planes, weighted = _arranged(volume, frame), image * crossings.length

    @jax.checkpoint
    def add(total: Crossings, first: Array) -> tuple[Crossings, None]:
        samples, pull = jax.vjp(lambda crossings: _samples(planes, first, crossings, frame), crossings)
        change = pull(weighted)[0]._replace(length=image * samples)
        return jax.tree.map(jnp.add, total, change), None

    zeros = jax.tree.map(jnp.zeros_like, crossings)
    total, _ = jax.lax.scan(add, zeros, jnp.arange(0, len(planes), PLANES_AT_ONCE))
    return pull(total)[0]


def _arranged(volume: Volume, frame: Frame) -> Float[Array, "a b c"]:
    """Return a volume with the main axis first and zeros around its planes, where rays leave it by its sides."""
    longest = max(volume.shape)
    planes = longest + -longest % PLANES_AT_ONCE

    def arrange(order: tuple[int, ...], volume: Array) -> Array:
        volume = volume.transpose(order)
        a, b, c = (n - m for n, m in zip((planes, longest, longest), volume.shape, strict=True))
        return jnp.pad(volume, ((0, a), (1, b + 2), (1, c + 2)))

    return jax.lax.switch(frame.axis, [partial(arrange, order) for order in ORDERS], volume)


def _samples(planes: Float[Array, "a b c"], first: Int[Array, ""], crossings: Crossings, frame: Frame) -> Image:
    """Return the weighted sum of a few planes' samples, in values: without the length between planes."""
    _, height, width = planes.shape
    values, total = planes.reshape(-1), jnp.zeros(crossings.length.shape)
    for index in range(PLANES_AT_ONCE):
        plane = frame.plane(first + index)
        # Voxel i is at i + 1, behind the zeros.
        b, c = (
            jnp.clip(place + (size + 1) / 2, 0, size + 1)
            for place, size in zip(crossings.at(plane), frame.size[1:], strict=True)
        )
        i, j = b.astype(jnp.int32), c.astype(jnp.int32)
        start, b, c = ((first + index) * height + i) * width + j, b - i, c - j
        lines = []
        for at in (start, start + width):
            left, right = (values.at[x].get(mode="promise_in_bounds") for x in (at, at + 1))
            lines.append(left + c * (right - left))
        total += crossings.share(plane) * (lines[0] + b * (lines[1] - lines[0]))
    return total


def _collect(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    """Compute the transpose: each voxel sums the pixels of a window around its own projection."""
    frame = Frame.of(pose, geometry)
    crossings, longest = Crossings.of(frame, geometry), max(geometry.volume_shape)
    height, width = geometry.detector_shape
    b, c = (jnp.arange(longest) - (size - 1) / 2 for size in frame.size[1:])
    b, weighted = b[:, None], image * crossings.length
    to_voxel = frame.turn * frame.voxel
    in_plane = [to[1] * b + to[2] * c - start for to, start in zip(to_voxel, frame.source, strict=True)]

    def some_planes(first: Array) -> Array:
        # Planes behind the last are left out below. They could be behind the source, where no window is right.
        plane = jnp.minimum(frame.plane(first + jnp.arange(PLANES_AT_ONCE)), (frame.size[0] - 1) / 2)
        places, pixels = crossings.at(plane), weighted * crossings.share(plane)
        row, column, depth = (x + to[0] * plane[:, None, None] for x, to in zip(in_plane, to_voxel, strict=True))
        (reach_h, rows), (reach_w, columns) = window(frame, plane, geometry)
        per_mm = [geometry.source_detector_mm / pixel for pixel in geometry.pixel_mm]
        top, left = (
            # Windows end at the detector's edge, where pixels are left out by their distance alone.
            jnp.clip(jnp.ceil(x / depth * scale + (n - 1) / 2 - reach), 0, n - count).astype(jnp.int32)
            for x, scale, n, reach, count in zip(
                (row, column), per_mm, (height, width), (reach_h, reach_w), (rows, columns), strict=True
            )
        )
        corner = (jnp.arange(PLANES_AT_ONCE)[:, None, None] * height + top) * width + left

        def add(index: Array, total: Array) -> Array:
            at = corner + index // columns * width + index % columns
            place_b, place_c, pixel = (x.reshape(-1).at[at].get(mode="promise_in_bounds") for x in (*places, pixels))
            return total + jnp.maximum(1 - jnp.abs(place_b - b), 0) * jnp.maximum(1 - jnp.abs(place_c - c), 0) * pixel

        return jax.lax.fori_loop(0, rows * columns, add, jnp.zeros((PLANES_AT_ONCE, longest, longest)))

    planes = jax.lax.map(some_planes, jnp.arange(0, longest, PLANES_AT_ONCE)).reshape(-1, longest, longest)

    def restore(order: tuple[int, ...], planes: Array) -> Array:
        return planes[tuple(slice(geometry.volume_shape[axis]) for axis in order)].transpose(np.argsort(order))

    return jax.lax.switch(frame.axis, [partial(restore, order) for order in ORDERS], planes)


def window(
    frame: Frame, plane: Float[Array, "n"], geometry: ConeBeamGeometry
) -> list[tuple[Float[Array, ""], Int[Array, ""]]]:
    """Return how far from a voxel's projection pixels can meet it, and how many these are, along rows and columns.

    A ray of slope s meets the voxel at x if it crosses its plane at x + e, where e is less than a voxel along each
    axis. Projected, that is (row . e - s beam . e) / depth(x) away, in units of ``source_detector_mm``: most at the
    nearest voxel, and for the outermost pixels. Nothing is approximated, so no pixel is missed.

    Args:
      frame: of the view.
      plane: the planes' places along the main axis, in voxels from the centre.
      geometry: of the detector.
    """
    beam, half = frame.turn[2] * frame.voxel, (frame.size[1:] - 1) / 2
    nearest = jnp.min(plane * beam[0]) - frame.source[2] - jnp.sum(jnp.abs(beam[1:]) * half)
    windows = []
    for axis, slopes, pixel, count in zip(
        frame.turn[:2] * frame.voxel, detector_slopes(geometry), geometry.pixel_mm, geometry.detector_shape, strict=True
    ):
        widest = jnp.maximum(*(jnp.abs(axis - s * beam)[1:].sum() for s in (slopes[0], slopes[-1])))
        # A little more, for rounding.
        reach = 1.0001 * geometry.source_detector_mm / pixel * widest / nearest
        windows.append((reach, jnp.clip(jnp.ceil(2 * reach), 1, count).astype(jnp.int32)))
    return windows
