"""Project and back-project level views, whose detector rows run along D and whose pose is known beforehand.

In such a view a ray's path in (H, W) depends on its column alone. Its position along D is its row's slope times its
depth. So everything that depends on columns is computed once, in NumPy, when a program is traced. What is left is
vector work on whole lines of voxels.
"""

import itertools
from dataclasses import dataclass

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
from dvg_jax.xray.sparse import SparseMatrix

ROW_SHIFT = 0.4
"""Voxels by which the outermost row moves along D between two depths at which lines are resampled. On chests at 128^3
this costs 0.03 % rms.
"""


@dataclass(frozen=True)
class LevelView:
    """Hold a level pose in mm.

    Attributes:
      column: axis of the detector's columns in (H, W).
      beam: axis of the beam in (H, W).
      source: (D, H, W) from the volume's centre.
    """

    column: Float[np.ndarray, "2"]
    beam: Float[np.ndarray, "2"]
    source: Float[np.ndarray, "3"]

    @classmethod
    def of(cls, pose: Pose, geometry: ConeBeamGeometry) -> "LevelView":
        """Compute the axes and the source of a NumPy pose without tilt, in double precision."""
        pose = np.asarray(pose, np.float64)
        _, column, beam = rotation(pose)
        return cls(column[1:], beam[1:], source_position(pose, geometry))


def is_level(pose: Pose) -> bool:
    """Return True for a pose that is known when a program is traced and has no tilt, so that its rows run along D."""
    return not isinstance(pose, Array) and not np.any(np.asarray(pose)[1:3])


def forward_project_level(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Return line integrals in value * mm, in two steps.

    1. At each of a few depths the rays of a column sample one line along D: a weighted sum of the lines of voxels that
       the column crosses near this depth.
    2. At one depth, a row's position along D is the same for all columns: a matrix.

    Args:
      volume: the values to integrate, (D, H, W).
      pose: a level pose, as a NumPy array.
      geometry: of source, volume and detector.
    """
    view = LevelView.of(pose, geometry)
    rows, columns = (s.astype(np.float64) for s in detector_slopes(geometry))
    depths, fan = _fan(view, columns, np.abs(rows).max(), geometry)

    index_d = (view.source[0] + depths[:, None] * rows) / geometry.voxel_mm[0] + (geometry.volume_shape[0] - 1) / 2
    # Voxels beyond the outermost rows are skipped: a tenth of them with the published detector.
    seen = slice(max(int(index_d.min()), 0), max(int(index_d.max()) + 2, 1))
    along_d = np.arange(geometry.volume_shape[0])[seen]
    resample = np.maximum(1 - np.abs(along_d[:, None] - index_d[:, None]), 0).astype(np.float32)

    lines = volume[seen].transpose(1, 2, 0).reshape(-1, len(along_d))
    at_depth = (fan @ lines).reshape(len(depths), len(columns), -1)
    # One product per depth, then the sum: on a CPU depths run in parallel, one long contraction does not.
    image = jnp.einsum("ewd,edh->ewh", at_depth, resample, precision=jax.lax.Precision.HIGHEST).sum(axis=0).T
    length = np.sqrt(1 + rows[:, None] ** 2 + columns**2)
    return image * length.astype(np.float32)


def _fan(
    view: LevelView, columns: Float[np.ndarray, "w"], steepest_row: float, geometry: ConeBeamGeometry
) -> tuple[Float[np.ndarray, "e"], SparseMatrix]:
    """Return depths in mm, and the matrix from lines of voxels, (H W), to lines at these depths, (e w), in mm of depth.

    Along every column's ray in (H, W) the volume is sampled ``samples_per_ray`` times, bilinearly. Each sample is
    shared between the two nearest depths, as linear interpolation would. More samples cost nothing when a volume is
    projected.
    """
    size, voxel = np.array(geometry.volume_shape[1:]), np.array(geometry.voxel_mm[1:])
    rays, source = columns[:, None] * view.column + view.beam, view.source[1:]
    entry, leave = box_crossing(source, rays.T, -size * voxel / 2, size * voxel / 2)
    step = (leave - entry) / geometry.samples_per_ray
    depth = entry[:, None] + (np.arange(geometry.samples_per_ray) + 0.5) * step[:, None]

    met = step > 0
    first, last = (depth[met].min(), depth[met].max()) if met.any() else (1.0, 1.0)
    spacing = ROW_SHIFT * geometry.voxel_mm[0] / max(steepest_row, 1e-6)
    depths = first + spacing * np.arange(int((last - first) / spacing) + 2)

    column = np.broadcast_to(np.arange(len(columns))[:, None], depth.shape)[met]
    step = np.broadcast_to(step[:, None], depth.shape)[met]
    place = (source + depth[met][..., None] * rays[met, None]) / voxel + (size - 1) / 2
    places = np.stack([(depth[met] - first) / spacing, place[..., 0], place[..., 1]])
    below, fraction = np.floor(places).astype(np.int64), places % 1
    entries = []
    for sides in itertools.product((0, 1), repeat=3):
        side = np.array(sides)[:, None, None]
        (e, h, w), weight = below + side, np.abs(1 - side - fraction).prod(axis=0) * step
        # Beyond the outermost voxel centres a volume falls to zero.
        inside = (h >= 0) & (h < size[0]) & (w >= 0) & (w < size[1])
        entries.append(((e * len(columns) + column)[inside], (h * size[1] + w)[inside], weight[inside]))
    row, line, weight = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return depths, SparseMatrix.summed((len(depths) * len(columns), int(size.prod())), row, line, weight)


def back_project_level(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    """Spread an image along its rays, Eq. (1): the bilinear image value over the ray's length in mm in the volume.

    Values that depend on (H, W) alone come from tables. Each voxel only computes its row, four gathers and its length.

    Args:
      image: values of the detector's pixels, (h, w).
      pose: a level pose, as a NumPy array.
      geometry: of source, volume and detector.
    """
    view = LevelView.of(pose, geometry)
    axes = [centre - place for centre, place in zip(voxel_centres(geometry), view.source, strict=True)]
    d, h, w = (axis.reshape(shape) for axis, shape in zip(axes, ((-1, 1, 1), (-1, 1), (1, -1)), strict=True))
    magnification = geometry.source_detector_mm / (h * view.beam[0] + w * view.beam[1])
    height, width = geometry.detector_shape

    column = (h * view.column[0] + w * view.column[1]) * magnification / geometry.pixel_mm[1] + width / 2 - 0.5
    seen = np.abs(column - (width - 1) / 2) <= width / 2
    column = np.clip(column, 0, width - 1)
    left = np.floor(column).astype(np.int32)
    right_weight = _f32(seen * (column - left))
    left_weight = _f32(seen) - right_weight

    # Edge pixels extend to their outer edge: one copy of them around the detector, and zero outside of it.
    padded = jnp.pad(image.astype(jnp.float32), ((1, 2), (0, 1)), mode="edge")
    value, below = padded.reshape(-1), (jnp.roll(padded, -1, axis=0) - padded).reshape(-1)
    from_middle = _f32(d) * _f32(magnification / geometry.pixel_mm[0])
    row = jnp.clip(from_middle + _f32((height + 1) / 2), 0, _f32(height + 1))
    top = row.astype(jnp.int32)
    at, fraction = top * (width + 1) + left, row - top.astype(jnp.float32)

    def between_rows(at: Array) -> Array:
        upper, change = (x.at[at].get(mode="promise_in_bounds") for x in (value, below))
        return upper + fraction * change

    spread = left_weight * between_rows(at) + right_weight * between_rows(at + 1)
    spread = jnp.where(jnp.abs(from_middle) <= height / 2, spread, 0)
    return spread / _length_in_volume(view, (d, h, w), geometry)


def _length_in_volume(view: LevelView, offset: tuple[np.ndarray, ...], geometry: ConeBeamGeometry) -> Array:
    """Return the length in mm of each voxel's ray; ``offset`` from the source is (D, 1, 1), (H, 1) and (1, W)."""
    half = np.array(geometry.extent_mm) / 2
    d, h, w = offset
    first, last = box_crossing(view.source[:1], [d], -half[:1], half[:1])
    entry, leave = box_crossing(view.source[1:], [h, w], -half[1:], half[1:])
    inside = jnp.minimum(_f32(last), _f32(leave)) - jnp.maximum(_f32(first), _f32(entry))
    return inside * jnp.sqrt(_f32(d**2) + _f32(h**2 + w**2))


def _f32(x: np.ndarray | float) -> Array:
    return jnp.asarray(x, jnp.float32)
