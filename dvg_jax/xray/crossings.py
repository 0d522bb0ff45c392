"""Describe where a view's rays cross the planes of voxels along the axis of the volume nearest to its beam."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from dvg_jax.shapes import Pose
from dvg_jax.xray.geometry import ConeBeamGeometry, box_crossing, detector_slopes, rotation

ORDERS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""For each main axis, these are the volume's axes D, H, W in the order used: it, then the two of its planes."""

HANDED = (1.0, -1.0, 1.0)
"""It tells for each order whether its axes are right-handed, as D, H, W are."""

WIDEST_CONE_DEG = 30.0
"""Between the beam and a corner of the detector. No axis is more than 54.7 degrees from every beam, so that within this
cone all rays cross the planes of the beam's main axis.
"""


class Frame(NamedTuple):
    """Hold a view and a volume in the order of ``ORDERS``; lengths in mm.

    Attributes:
      axis: the main axis, 0 for D.
      size: voxels along each axis.
      voxel: edge of a voxel along each axis.
      turn: from these axes to the detector's (row, column, beam).
      source: in the detector's axes, from the volume's centre.
      handed: 1 if the axes are right-handed, -1 if not.
    """

    axis: Int[Array, ""]
    size: Float[Array, "3"]
    voxel: Float[Array, "3"]
    turn: Float[Array, "3 3"]
    source: Float[Array, "3"]
    handed: Float[Array, ""]

    @classmethod
    def of(cls, pose: Pose, geometry: ConeBeamGeometry) -> "Frame":
        """Choose the main axis at run time, so that one program serves all poses."""
        pose = jnp.asarray(pose, jnp.float32)
        turn = rotation(pose)
        axis = jnp.argmax(jnp.abs(turn[2]))
        order = jnp.asarray(ORDERS)[axis]
        size, voxel = (jnp.asarray(x, jnp.float32)[order] for x in (geometry.volume_shape, geometry.voxel_mm))
        # A sum over zeros and a one, since the gradient of turn[:, order] would be a scatter.
        ordered = jnp.sum(turn[:, None, :] * (order[:, None] == jnp.arange(3)), axis=2)
        source = pose[3:] - np.array([0, 0, geometry.source_isocentre_mm], np.float32)
        return cls(axis, size, voxel, ordered, source, jnp.asarray(HANDED)[axis])

    def plane(self, index: Int[Array, "*n"]) -> Float[Array, "*n"]:
        """Return planes' places along the main axis, in voxels from the volume's centre."""
        return index - (self.size[0] - 1) / 2


class Crossings(NamedTuple):
    """Hold what planes need to know of each pixel's ray, in voxels from the volume's centre.

    Attributes:
      middle: where it crosses the plane through the centre, along the plane's two axes.
      slope: how much further it crosses the next plane.
      entry: the place along the main axis at which it enters the volume.
      leave: the place at which it leaves.
      length: mm from one plane to the next.
    """

    middle: tuple[Float[Array, "h w"], Float[Array, "h w"]]
    slope: tuple[Float[Array, "h w"], Float[Array, "h w"]]
    entry: Float[Array, "h w"]
    leave: Float[Array, "h w"]
    length: Float[Array, "h w"]

    @classmethod
    def of(cls, frame: Frame, geometry: ConeBeamGeometry) -> "Crossings":
        """Compute the crossings of all rays, differentiably in the frame."""
        rows, columns = detector_slopes(geometry)
        u, v = rows[:, None], columns[None, :]
        (x, y, z), (along_a, along_b, along_c) = frame.source, frame.voxel
        a, b, c = (u * row + v * column + beam for row, column, beam in frame.turn.T)
        # Direction x source, in the detector's axes: where a ray passes the centre follows from it without a difference
        # of lengths of a metre, whose rounding would move rays by 1e-4 voxels.
        moment = v * z - y, x - u * z, u * y - v * x
        _, around_b, around_c = (sum(m * t for m, t in zip(moment, turn, strict=True)) for turn in frame.turn.T)
        middle = frame.handed * around_c / (a * along_b), -frame.handed * around_b / (a * along_c)
        slope = b / a * (along_a / along_b), c / a * (along_a / along_c)
        entry, leave = box_crossing((0.0, *middle), (jnp.ones_like(a), *slope), -frame.size / 2, frame.size / 2)
        return cls(middle, slope, entry, leave, along_a * jnp.sqrt(a**2 + b**2 + c**2) / jnp.abs(a))

    def at(self, plane: Float[Array, "..."]) -> tuple[Float[Array, "... h w"], Float[Array, "... h w"]]:
        """Return where rays cross planes, along their two axes, in voxels from the volume's centre."""
        b, c = (m + s * plane[..., None, None] for m, s in zip(self.middle, self.slope, strict=True))
        return b, c

    def share(self, plane: Float[Array, "..."]) -> Float[Array, "... h w"]:
        """Return planes' weights: the integral of a tent, one voxel to each side, from entry to leave.

        The sum of weighted samples is the integral of samples interpolated linearly between planes. It changes smoothly
        when a ray comes to pass a corner of the box, so rounding there can't matter.
        """
        before, after = (jnp.clip(x - plane[..., None, None], -1, 1) for x in (self.entry, self.leave))
        return (after - 0.5 * after * jnp.abs(after)) - (before - 0.5 * before * jnp.abs(before))


def all_rays_cross(geometry: ConeBeamGeometry) -> bool:
    """Return whether in every pose all rays cross the planes of the main axis, see ``WIDEST_CONE_DEG``."""
    rows, columns = detector_slopes(geometry)
    return bool(np.hypot(rows[-1], columns[-1]) <= np.tan(np.deg2rad(WIDEST_CONE_DEG)))
