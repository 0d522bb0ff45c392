"""Where source, volume and detector are. Lengths in mm, angles in degrees.

World axes are the volume's, D foot to head, H anterior to posterior, W patient right to left, with the origin at the
volume's centre. At angle 0 the source is on the posterior side and columns run along +W; at 90 it is on the patient's
right and columns run along +H. Rows run along +D in both: row 0 is the foot end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from dvg_jax.errors import UserError
from dvg_jax.shapes import Pose

PAPER_SIZE = 128


@dataclass(frozen=True)
class ConeBeamGeometry:
    """A point source, a box of voxels around the isocentre and a flat detector behind it; all in mm.

    Attributes:
      volume_shape: voxels along D, H, W.
      voxel_mm: edge of a voxel along D, H, W.
      detector_shape: pixels along rows (h) and columns (w).
      pixel_mm: edge of a pixel along h, w.
      source_isocentre_mm: from the source to the volume's centre.
      source_detector_mm: from the source to the detector.
      samples_per_ray: of a forward projection, over the part of the ray in the volume.
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
        """The published constants: voxel and pixel 1 mm at 128, scaled at other sizes so that the field stays.

        The detector sees 107 of 128 voxels at the isocentre; 29 % of the volume is crossed by no ray.
        """
        return cls._cube(size, _voxel_mm(size))

    @classmethod
    def covering(cls, size: int = PAPER_SIZE) -> "ConeBeamGeometry":
        """As :meth:`paper` with pixels so large that the face nearest to the source is seen whole at 0 and 90."""
        edge = float(PAPER_SIZE)
        return cls._cube(size, _voxel_mm(size) * cls.source_detector_mm / (cls.source_isocentre_mm - edge / 2))

    @classmethod
    def _cube(cls, size: int, pixel: float) -> "ConeBeamGeometry":
        return cls((size,) * 3, (_voxel_mm(size),) * 3, (size,) * 2, (pixel,) * 2, samples_per_ray=2 * size)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edges of the volume along D, H, W."""
        d, h, w = (n * v for n, v in zip(self.volume_shape, self.voxel_mm, strict=True))
        return d, h, w

    @property
    def radius_mm(self) -> float:
        """From the centre to a corner in the plane of rotation."""
        return float(np.hypot(*self.extent_mm[1:])) / 2


def _voxel_mm(size: int) -> float:
    """Return the edge in mm of a voxel, ``size`` of which fill the published field. UserError for a bad size."""
    if not isinstance(size, Integral) or size < 1:
        raise UserError(f"size is {size}; allowed: a whole number, 1 or more")
    return PAPER_SIZE / size


def view_pose(
    angle_deg: Float[ArrayLike, ""],
    translation_mm: Float[ArrayLike, "3"] | Sequence[float] = (0.0, 0.0, 0.0),
    tilt_deg: Float[ArrayLike, "2"] | Sequence[float] = (0.0, 0.0),
) -> Pose:
    """Describe a view by six numbers: rotation about D, H, W in degrees, translation along row, column and beam in mm.

    ``angle_deg`` 0 is frontal, 90 lateral. The result is a NumPy array unless an argument is a JAX array.

    Raises:
      UserError: an angle, tilt or translation of another length, or NumPy values that are not finite; the values of a
        JAX array are not known while a program is compiled.
    """
    parts = {"angle_deg": (angle_deg, 1), "tilt_deg": (tilt_deg, 2), "translation_mm": (translation_mm, 3)}
    array: Any = (
        jnp if any(isinstance(p, Array) for p in jax.tree.leaves((angle_deg, tilt_deg, translation_mm))) else np
    )
    return array.concatenate([_numbers(array, name, *part) for name, part in parts.items()])


def _numbers(array: Any, name: str, value: Any, count: int) -> Any:
    """Return ``value`` as a vector of ``count`` numbers, by NumPy or JAX."""
    allowed = f"{count} finite number{'s' if count > 1 else ''}"
    try:
        vector = array.asarray(value, array.float32).reshape(-1)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}; allowed: {allowed}") from None
    if len(vector) != count or (array is np and not np.isfinite(vector).all()):
        raise UserError(f"{name} is {value!r}; allowed: {allowed}")
    return vector


def rotation(pose: Pose) -> Float[Array, "3 3"]:
    """World to detector axes (row, column, beam): ``Rx Ry Rz`` with the published zero, 90 degrees before frontal."""
    angles = jnp.deg2rad(pose[:3] - jnp.asarray([90.0, 0.0, 0.0]))
    (cx, cy, cz), (sx, sy, sz) = jnp.cos(angles), jnp.sin(angles)
    rx = jnp.stack([jnp.stack([1 + 0 * cx, 0 * cx, 0 * cx]), jnp.stack([0 * cx, cx, -sx]), jnp.stack([0 * cx, sx, cx])])
    ry = jnp.stack([jnp.stack([cy, 0 * cy, sy]), jnp.stack([0 * cy, 1 + 0 * cy, 0 * cy]), jnp.stack([-sy, 0 * cy, cy])])
    rz = jnp.stack([jnp.stack([cz, -sz, 0 * cz]), jnp.stack([sz, cz, 0 * cz]), jnp.stack([0 * cz, 0 * cz, 1 + 0 * cz])])
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(jnp.matmul(rx, ry, precision=highest), rz, precision=highest)


def source_position(pose: Pose, geometry: ConeBeamGeometry) -> Float[Array, "3"]:
    """The source in mm from the volume's centre."""
    beam = jnp.asarray([0.0, 0.0, geometry.source_isocentre_mm])
    return jnp.asarray(pose[3:] - beam) @ rotation(pose)


def detector_slopes(geometry: ConeBeamGeometry) -> tuple[Float[np.ndarray, "h"], Float[np.ndarray, "w"]]:
    """Row and column offset of each pixel centre per mm of depth from the source."""
    slopes = (
        (np.arange(n) + 0.5 - n / 2) * pixel / geometry.source_detector_mm
        for n, pixel in zip(geometry.detector_shape, geometry.pixel_mm, strict=True)
    )
    rows, columns = (s.astype(np.float32) for s in slopes)
    return rows, columns
