"""Place source, volume and detector. Lengths in mm, angles in degrees.

World axes are the volume's, D foot to head, H anterior to posterior, W patient right to left, with the origin at the
volume's centre. At angle 0 the source is on the posterior side and columns run along +W; at 90 it is on the patient's
right and columns run along +H. Rows run along +D in both: row 0 is the foot end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from dvg_jax.errors import UserError
from dvg_jax.shapes import Pose

PAPER_SIZE = 128
GEOMETRIES = ("paper", "covering")
"""The named geometries, each a constructor of :class:`ConeBeamGeometry`."""

SMALLEST_STEP = 0.01
"""Degrees under which two angles count as one view: the source, a metre away, moves by less than 0.2 mm."""

AnyArray = TypeVar("AnyArray", bound=Array | np.ndarray)
"""JAX or NumPy arrays, where the same code serves both."""


@dataclass(frozen=True)
class ConeBeamGeometry:
    """Describe a point source, a box of voxels around the isocentre and a flat detector behind it; all in mm.

    Attributes:
      volume_shape: voxels along D, H, W.
      voxel_mm: edge of a voxel along D, H, W.
      detector_shape: pixels along rows (h) and columns (w).
      pixel_mm: edge of a pixel along h, w.
      source_isocentre_mm: from the source to the volume's centre.
      source_detector_mm: from the source to the detector.
      samples_per_ray: samples of a forward projection, over the part of the ray in the volume.

    Raises:
      UserError: a count or length is not positive, or the source is within the volume's radius or behind the detector.
    """

    volume_shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    detector_shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    source_isocentre_mm: float = 1000.0
    source_detector_mm: float = 1200.0
    samples_per_ray: int = 256

    def __post_init__(self) -> None:
        for name, axes in (("volume_shape", 3), ("detector_shape", 2)):
            given = getattr(self, name)
            if len(given) != axes or any(not isinstance(n, Integral) or n < 1 for n in given):
                raise UserError(f"{name} is {given}; allowed: {axes} whole numbers, 1 or more along each axis")
        for name, axes in (("voxel_mm", 3), ("pixel_mm", 2)):
            given = getattr(self, name)
            if len(given) != axes or any(not 0 < n < np.inf for n in given):
                raise UserError(f"{name} is {given}; allowed: {axes} lengths, each finite and more than 0 mm")
        if not isinstance(self.samples_per_ray, Integral) or self.samples_per_ray < 1:
            raise UserError(f"samples_per_ray is {self.samples_per_ray}; allowed: 1 or more")
        if not self.radius_mm < self.source_isocentre_mm < self.source_detector_mm < np.inf:
            raise UserError(
                f"source_isocentre_mm is {self.source_isocentre_mm}; allowed: more than the volume's radius "
                f"{self.radius_mm:.1f} and less than source_detector_mm {self.source_detector_mm}"
            )

    @classmethod
    def paper(cls, size: int = PAPER_SIZE) -> "ConeBeamGeometry":
        """Return the published geometry: voxel and pixel 1 mm at 128, scaled at other sizes so that the field stays.

        The detector sees 107 of 128 voxels at the isocentre; 29 % of the volume is crossed by no ray.
        """
        return cls._cube(size, _voxel_mm(size))

    @classmethod
    def covering(cls, size: int = PAPER_SIZE) -> "ConeBeamGeometry":
        """Return :meth:`paper` with pixels so large that views at 0 and 90 see the whole face nearest to the source."""
        edge = float(PAPER_SIZE)
        return cls._cube(size, _voxel_mm(size) * cls.source_detector_mm / (cls.source_isocentre_mm - edge / 2))

    @classmethod
    def _cube(cls, size: int, pixel: float) -> "ConeBeamGeometry":
        return cls((size,) * 3, (_voxel_mm(size),) * 3, (size,) * 2, (pixel,) * 2, samples_per_ray=2 * size)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Return the edges of the volume along D, H, W in mm."""
        d, h, w = (n * v for n, v in zip(self.volume_shape, self.voxel_mm, strict=True))
        return d, h, w

    @property
    def radius_mm(self) -> float:
        """Return the distance in mm from the centre to a corner in the plane of rotation."""
        return float(np.hypot(*self.extent_mm[1:])) / 2


def _voxel_mm(size: int) -> float:
    """Return the edge in mm of a voxel, ``size`` of which fill the published field; UserError for a bad size."""
    if not isinstance(size, Integral) or size < 1:
        raise UserError(f"size is {size}; allowed: a whole number, 1 or more")
    return PAPER_SIZE / size


def view_pose(
    angle_deg: Float[ArrayLike, ""],
    translation_mm: Float[ArrayLike, "3"] | Sequence[float] = (0.0, 0.0, 0.0),
    tilt_deg: Float[ArrayLike, "2"] | Sequence[float] = (0.0, 0.0),
) -> Pose:
    """Describe a view by six numbers: rotation about D, H, W in degrees, translation along row, column and beam in mm.

    The result is a NumPy array unless an argument is a JAX array.

    Args:
      angle_deg: rotation about the foot-head axis in degrees, 0 frontal and 90 lateral.
      translation_mm: of the source and detector along row, column and beam, in mm.
      tilt_deg: rotation about H and W, in degrees.

    Raises:
      UserError: an angle, tilt or translation of another length, or NumPy values that are not finite; the values of a
        JAX array are not known while a program is compiled.
    """
    parts = [
        _numbers("angle_deg", angle_deg, 1),
        _numbers("tilt_deg", tilt_deg, 2),
        _numbers("translation_mm", translation_mm, 3),
    ]
    known = all(isinstance(part, np.ndarray) for part in parts)
    return np.concatenate(parts) if known else jnp.concatenate(parts)


def _numbers(name: str, value: Any, count: int) -> Float[Array | np.ndarray, "n"]:
    """Return ``value`` as a vector of ``count`` numbers: a JAX array if it contains one, else a NumPy array."""
    allowed = f"{count} finite number{'s' if count > 1 else ''}"
    traced = any(isinstance(part, Array) for part in jax.tree.leaves(value))
    try:
        vector = (jnp if traced else np).asarray(value, np.float32).reshape(-1)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}; allowed: {allowed}") from None
    if len(vector) != count or not (traced or np.isfinite(vector).all()):
        raise UserError(f"{name} is {value!r}; allowed: {allowed}")
    return vector


def check_angles(what: str, angles: Sequence[float]) -> None:
    """Refuse invalid angles (allowed: -360 to 360) and two that give one view; ``what`` names them in the message."""
    for angle in angles:
        if not isinstance(angle, (int, float)) or not -360 <= angle <= 360:
            raise UserError(f"{what} has {angle!r}; allowed: angles from -360 to 360 degrees")
    for i, a in enumerate(angles):
        for b in angles[i + 1 :]:
            if abs(math.remainder(a - b, 360)) < SMALLEST_STEP:
                raise UserError(
                    f"{what} has {a!r} and {b!r}, which show the same view; allowed: angles that are {SMALLEST_STEP} "
                    "degrees or more apart"
                )


def rotation(pose: AnyArray) -> AnyArray:
    """Return the matrix (3, 3) from the world's axes to the detector's (row, column, beam), of the pose's array type.

    It is ``Rx Ry Rz``; its angle 0 is the published zero, 90 degrees before frontal. A NumPy pose is computed in double
    precision. JAX's ``Rotation`` computes through quaternions, whose rounding changes images by 7e-6 of their maximum.
    """
    xp = pose.__array_namespace__()
    angles = xp.deg2rad(pose[:3] - np.array([90.0, 0.0, 0.0]))
    (cx, cy, cz), (sx, sy, sz) = xp.cos(angles), xp.sin(angles)
    return xp.asarray(
        [
            [cy * cz, -cy * sz, sy],
            [cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy],
            [sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy],
        ]
    )


def source_position(pose: AnyArray, geometry: ConeBeamGeometry) -> AnyArray:
    """Return the source of a pose (6,) in mm from the volume's centre, (3,)."""
    row, column, beam = rotation(pose)
    return pose[3] * row + pose[4] * column + (pose[5] - geometry.source_isocentre_mm) * beam


def detector_slopes(geometry: ConeBeamGeometry) -> tuple[Float[np.ndarray, "h"], Float[np.ndarray, "w"]]:
    """Return the row and column offset of each pixel centre per mm of depth from the source."""
    slopes = (
        (np.arange(n) + 0.5 - n / 2) * pixel / geometry.source_detector_mm
        for n, pixel in zip(geometry.detector_shape, geometry.pixel_mm, strict=True)
    )
    rows, columns = (s.astype(np.float32) for s in slopes)
    return rows, columns


def voxel_centres(geometry: ConeBeamGeometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the voxel centres along D, H and W in mm from the volume's centre, in double precision."""
    d, h, w = (
        (np.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(geometry.volume_shape, geometry.voxel_mm, strict=True)
    )
    return d, h, w


def box_crossing(
    source: Iterable[Any],
    direction: Iterable[Any],
    low: Float[Array | np.ndarray, "n"],
    high: Float[Array | np.ndarray, "n"],
) -> tuple[Any, Any]:
    """Return where rays enter and leave a box, as multiples of their direction; twice the entry where they miss it.

    Args:
      source: where the rays start, a number for each axis of the box.
      direction: of the rays, of any length, an array for each axis; the arrays broadcast to one another.
      low: the corner of the box with the least coordinates.
      high: the opposite corner.
    """
    entry: Any = -np.inf
    leave: Any = np.inf
    for start, along, first, last in zip(source, direction, low, high, strict=True):
        xp = along.__array_namespace__()
        # A ray parallel to a face is turned by an amount that moves it less than a micrometre.
        safe = xp.where(xp.abs(along) < 1e-9, 1e-9, along)
        faces = (first - start) / safe, (last - start) / safe
        entry, leave = xp.maximum(entry, xp.minimum(*faces)), xp.minimum(leave, xp.maximum(*faces))
    return entry, xp.maximum(entry, leave)
