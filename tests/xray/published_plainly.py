"""The published projectors written as plainly as possible: float64, ray by ray.

Nodes lie 0.1 voxel apart, or where a running float32 sum of 0.1 puts them.
"""

from collections.abc import Iterator

import numpy as np

from dvg_jax.xray import ConeBeamGeometry

STEP = 0.1


def published_rays(numbers: np.ndarray, geometry: ConeBeamGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Source (3,) and unit directions (h, w, 3) in voxels from the box's corner, for the six published numbers."""
    (cx, cy, cz), (sx, sy, sz) = (f(np.pi * np.asarray(numbers[:3], np.float64)) for f in (np.cos, np.sin))
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    back = (rx @ ry @ rz).T / np.array(geometry.voxel_mm)[:, None]
    shift = np.pi * np.asarray(numbers[3:], np.float64) - [0, 0, geometry.source_isocentre_mm]
    source = np.array(geometry.volume_shape) / 2 + back @ shift
    (h, w), (pu, pv), far = geometry.detector_shape, geometry.pixel_mm, geometry.source_detector_mm
    rows, columns = np.meshgrid((np.arange(h) + 0.5 - h / 2) * pu, (np.arange(w) + 0.5 - w / 2) * pv, indexing="ij")
    directions = np.stack([rows, columns, np.full((h, w), far)], -1) @ back.T
    return source, directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def path(source: np.ndarray, direction: np.ndarray, shape: tuple[int, ...]) -> tuple[float, float]:
    """Where a ray enters and leaves the box, in voxels from the source; the same where it misses it."""
    with np.errstate(divide="ignore"):
        crossings = np.stack([-source / direction, (np.array(shape) - source) / direction])
    entry, leave = crossings.min(0).max(), crossings.max(0).min()
    return entry, max(entry, leave)


def forward_plainly(volume, numbers, geometry: ConeBeamGeometry, float32_steps: bool = False) -> np.ndarray:
    source, directions = published_rays(numbers, geometry)
    image = np.zeros(geometry.detector_shape)
    for pixel in np.ndindex(*image.shape):
        along, weights = _nodes(*path(source, directions[pixel], volume.shape), float32_steps, first=1.0)
        mm = np.linalg.norm(directions[pixel] * geometry.voxel_mm)
        for voxels, shares in _taps(source + along[:, None] * directions[pixel], volume.shape):
            image[pixel] += mm / 10 * (STEP * weights * shares * volume[voxels]).sum()
    return image


def back_plainly(image, numbers, geometry: ConeBeamGeometry, float32_steps: bool = False) -> np.ndarray:
    source, directions = published_rays(numbers, geometry)
    volume = np.zeros(geometry.volume_shape)
    for pixel in np.ndindex(*image.shape):
        along, weights = _nodes(*path(source, directions[pixel], volume.shape), float32_steps, first=0.5)
        value = 10 * image[pixel] * STEP * np.linalg.norm(directions[pixel] * geometry.voxel_mm)
        for voxels, shares in _taps(source + along[:, None] * directions[pixel] - 0.5, volume.shape):
            np.add.at(volume, voxels, value * weights * shares)
    return volume


def _nodes(entry: float, leave: float, float32_steps: bool, first: float) -> tuple[np.ndarray, np.ndarray]:
    """Places along a ray and weights in steps: every tenth of a voxel, and where the ray leaves."""
    kind = np.float32 if float32_steps else np.float64
    entry, leave, step = kind(entry), kind(leave), kind(STEP)
    along = [entry]
    while along[-1] + step < leave:
        along.append(along[-1] + step)
    rest = float(leave - along[-1]) / STEP
    weights = np.ones(len(along) + 1)
    weights[0] = first
    weights[-2] += (rest - 1) / 2
    weights[-1] = rest / 2
    inside = entry < leave
    return np.array([*along, leave], np.float64), weights * inside


def _taps(points: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Indices of one of eight neighbours of each point, and its trilinear weight; 0 where one of them is missing."""
    cells = np.trunc(points).astype(int)
    counts = ((cells >= 0) & (cells < np.array(shape) - 1)).all(-1)
    fractions = points - cells
    cells = np.where(counts[:, None], cells, 0)
    for corner in np.ndindex(2, 2, 2):
        yield tuple((cells + corner).T), counts * np.where(corner, fractions, 1 - fractions).prod(-1)
