"""Forward projection plane by plane, for views whose detector rows run along D.

At equal depth from the source, a sample's place along D depends on its row alone and its place in (H, W) on its column
alone. So a plane of samples is a gather of whole D-lines, one a column, followed by a resampling along D that is the
same for all columns: a matrix. The image is the sum of one matrix product a plane.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dvg_jax.shapes import Image, Pose, Volume
from dvg_jax.xray.geometry import ConeBeamGeometry, detector_slopes

PLANES_AT_ONCE = 16
"""Planes that are held at a time: memory does not grow with their number, and they stay in a processor's cache."""


def forward_project_planes(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Line integrals in value * mm. ``pose`` is a NumPy array without tilt."""
    numbers = np.asarray(pose, np.float64)
    angle = np.deg2rad(numbers[0] - 90)
    # World (H, W) components of the detector's column and beam axes: the second and third row of Rx.
    column, beam = np.array([np.cos(angle), -np.sin(angle)]), np.array([np.sin(angle), np.cos(angle)])
    shift = numbers[3:] - np.array([0, 0, geometry.source_isocentre_mm])
    source_d, source_hw = shift[0], shift[1] * column + shift[2] * beam
    rows, columns = (s.astype(np.float64) for s in detector_slopes(geometry))

    half = np.asarray(geometry.extent_mm[1:]) / 2
    middle = -source_hw @ beam
    reach = np.abs(beam) @ half
    step = 2 * reach / geometry.samples_per_ray
    depth = middle - reach + (np.arange(geometry.samples_per_ray) + 0.5) * step

    size_d, size_h, size_w = geometry.volume_shape
    voxel = geometry.voxel_mm
    ray = columns[:, None] * column + beam
    place = source_hw + depth[:, None, None] * ray
    index_hw = (place + half) / np.asarray(voxel[1:]) + 0.5
    index_d = (source_d + depth[:, None] * rows) / voxel[0] + size_d / 2 - 0.5

    lines = jnp.pad(volume.astype(jnp.float32), ((0, 0), (1, 1), (1, 1))).transpose(1, 2, 0).reshape(-1, size_d)
    image = jnp.zeros(geometry.detector_shape, jnp.float32)
    for start in range(0, geometry.samples_per_ray, PLANES_AT_ONCE):
        planes = slice(start, start + PLANES_AT_ONCE)
        # Columns that pass the volume by in all of these planes are left out: a fifth of the samples at 45 degrees.
        inside = np.all((index_hw[planes] > 0) & (index_hw[planes] < (size_h + 1, size_w + 1)), axis=-1).any(axis=0)
        if inside.any():
            met = slice(inside.argmax(), inside.size - inside[::-1].argmax())
            sums = _planes(lines, index_hw[planes, met], index_d[planes], (size_h + 2, size_w + 2))
            image = image.at[:, met].add(sums)
    length = np.sqrt(1 + rows[:, None] ** 2 + columns**2) * step
    return image * length.astype(np.float32)


def _planes(lines: Array, index_hw: np.ndarray, index_d: np.ndarray, shape: tuple[int, int]) -> Array:
    """Sum over some planes: ``lines`` (H W, D), ``index_hw`` (k, w, 2), ``index_d`` (k, h) -> (h, w)."""
    limit = np.asarray(shape) - 1.0
    index = np.clip(index_hw, 0, limit)
    cell = np.minimum(np.floor(index), limit - 1)
    fraction = (index - cell).astype(np.float32)
    first = (cell[..., 0] * shape[1] + cell[..., 1]).astype(np.int32)
    sheet = jnp.zeros((*first.shape, lines.shape[1]), jnp.float32)
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - fraction[..., 0]) * np.abs(1 - j - fraction[..., 1])
            sheet += weight[..., None] * jnp.take(lines, first + i * shape[1] + j, axis=0, mode="clip")
    along = jnp.arange(lines.shape[1], dtype=jnp.float32)
    resample = jnp.maximum(1 - jnp.abs(index_d.astype(np.float32)[..., None] - along), 0)
    # A product a plane, then the sum: on a CPU planes run in parallel, one long contraction does not.
    return jnp.einsum("khd,kwd->khw", resample, sheet, precision=jax.lax.Precision.HIGHEST).sum(axis=0)
