"""Line integrals known in closed form, and a projector written as plainly as possible."""

import numpy as np

from dvg_jax.xray import ConeBeamGeometry


def plain_rays(angle_deg: float, geometry: ConeBeamGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Source (3,) and unit directions (h, w, 3) in world mm, from the words of ``geometry.py`` alone."""
    a = np.deg2rad(angle_deg)
    beam, column, row = np.array([0, -np.cos(a), np.sin(a)]), np.array([0, np.sin(a), np.cos(a)]), np.array([1.0, 0, 0])
    (h, w), (ph, pw) = geometry.detector_shape, geometry.pixel_mm
    u = (np.arange(h) + 0.5 - h / 2) * ph
    v = (np.arange(w) + 0.5 - w / 2) * pw
    directions = u[:, None, None] * row + v[None, :, None] * column + geometry.source_detector_mm * beam
    source = -geometry.source_isocentre_mm * beam
    return source, directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def centres(geometry: ConeBeamGeometry) -> np.ndarray:
    """World mm of the voxel centres, (D, H, W, 3)."""
    axes = [(np.arange(n) + 0.5 - n / 2) * v for n, v in zip(geometry.volume_shape, geometry.voxel_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


class Gaussian:
    """exp(-|A (x - c)|^2 / 2) with semi-axes along the world's."""

    def __init__(self, centre: tuple[float, ...], sigmas: tuple[float, ...]) -> None:
        self.centre, self.sigmas = np.array(centre), np.array(sigmas)

    def volume(self, geometry: ConeBeamGeometry) -> np.ndarray:
        q = (centres(geometry) - self.centre) / self.sigmas
        return np.exp(-0.5 * (q**2).sum(-1)).astype(np.float32)

    def integral(self, source: np.ndarray, directions: np.ndarray) -> np.ndarray:
        s, d = (source - self.centre) / self.sigmas, directions / self.sigmas
        a, b, c = (d * d).sum(-1), (d * s).sum(-1), (s * s).sum(-1)
        return np.sqrt(2 * np.pi / a) * np.exp(-0.5 * (c - b**2 / a))


class Ellipsoid:
    """1 inside, 0 outside; voxels hold the share of them that is inside, from 5^3 points each."""

    def __init__(self, centre: tuple[float, ...], radii: tuple[float, ...]) -> None:
        self.centre, self.radii = np.array(centre), np.array(radii)

    def volume(self, geometry: ConeBeamGeometry) -> np.ndarray:
        middle, total = centres(geometry), 0.0
        for offset in np.ndindex(5, 5, 5):
            x = middle + ((np.array(offset) + 0.5) / 5 - 0.5) * np.array(geometry.voxel_mm)
            total = total + ((((x - self.centre) / self.radii) ** 2).sum(-1) < 1)
        return (total / 125).astype(np.float32)

    def integral(self, source: np.ndarray, directions: np.ndarray) -> np.ndarray:
        s, d = (source - self.centre) / self.radii, directions / self.radii
        a, b, c = (d * d).sum(-1), (d * s).sum(-1), (s * s).sum(-1)
        return 2 * np.sqrt(np.maximum(b**2 - a * (c - 1), 0)) / a


def project_plainly(volume: np.ndarray, angle_deg: float, geometry: ConeBeamGeometry) -> np.ndarray:
    """Ray by ray, sample by sample, in float64: midpoints between entry and exit, trilinear, zero beyond."""
    source, directions = plain_rays(angle_deg, geometry)
    half, voxel = np.array(geometry.extent_mm) / 2, np.array(geometry.voxel_mm)
    padded = np.pad(volume.astype(np.float64), 2)
    image = np.zeros(geometry.detector_shape)
    for pixel in np.ndindex(*geometry.detector_shape):
        direction = directions[pixel]
        with np.errstate(divide="ignore"):
            crossings = np.stack([(-half - source) / direction, (half - source) / direction])
        entry, leave = crossings.min(0).max(), crossings.max(0).min()
        step = max(leave - entry, 0) / geometry.samples_per_ray
        for k in range(geometry.samples_per_ray):
            index = (source + (entry + (k + 0.5) * step) * direction + half) / voxel - 0.5 + 2
            cell = np.floor(index).astype(int)
            if (cell < 0).any() or (cell + 1 >= padded.shape).any():
                continue
            f = index - cell
            for corner in np.ndindex(2, 2, 2):
                weight = np.prod(np.where(corner, f, 1 - f))
                image[pixel] += step * weight * padded[tuple(cell + corner)]
    return image
