"""Describe how a film was taken otherwise than its nominal view, project at that pose, and undo it.

Lengths are of the patient. A geometry's own mm are other ones: its cube is ``extent_mm`` wide and covers 320 mm.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.shapes import Film, Image, Pose, Volume
from dvg_jax.xray.geometry import ConeBeamGeometry, detector_slopes, rotation, source_position, view_pose
from dvg_jax.xray.projector import forward_project
from dvg_jax.xray.resample import interpolated

BEYOND = 1 / 8
"""The patient goes on beyond the cube's foot and head ends for this share of its height: the outermost slices do."""

WHOLE = 0.97
"""A ray whose path is this share of the longest or more crosses the whole cube."""

DIM = 0.3
"""Films are not divided by less than this share of the longest path: where the cube is so thin, they show little."""


AROUND = 1 / 8
"""Films that are framed are kept with so much more on each side, as a share of the view's edge, and can be moved."""


class Placement(NamedTuple):
    """Hold a film's difference from its nominal view; each is a number, or an array with one entry a film.

    What all films of a patient share is the patient's place and no fault, and so is a shift along the rows of a film,
    which no other film shows.

    Attributes:
      height_mm: source and film stand so much higher, towards the head: the patient looks lower.
      scale: logarithm of how much larger the patient looks.
      roll_deg: the film is turned about the beam.
      tilt_deg: source and film are turned about the film's rows.
    """

    height_mm: Array
    scale: Array
    roll_deg: Array
    tilt_deg: Array

    @classmethod
    def nominal(cls, *shape: int) -> "Placement":
        """Return no difference for so many films."""
        return cls(*(jnp.zeros(shape) for _ in cls._fields))

    def pose(self, angle_deg: Float[Array, ""], geometry: ConeBeamGeometry) -> Pose:
        """Return the pose of one film, (6,). Its size is changed by the source's distance.

        Args:
          angle_deg: of the nominal view, in degrees.
          geometry: of source and detector.
        """
        angle = jnp.deg2rad(angle_deg)
        about_h = jnp.cos(angle) * self.roll_deg - jnp.sin(angle) * self.tilt_deg
        about_w = jnp.sin(angle) * self.roll_deg + jnp.cos(angle) * self.tilt_deg
        row = self.height_mm * geometry.extent_mm[0] / FIELD_MM
        nearer = geometry.source_isocentre_mm * (1 - jnp.exp(-self.scale))
        return view_pose(angle_deg, jnp.stack([row, 0.0 * row, nearer]), jnp.stack([about_h, about_w]))


def film_of_patient(ct: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Return a film's line integrals, in value * mm, of a patient who does not end where the cube does.

    Args:
      ct: the cube, (D, H, W).
      pose: of the film, (6,).
      geometry: of source, cube and detector.
    """
    more = max(round(BEYOND * len(ct)), 1)
    taller = replace(geometry, volume_shape=(len(ct) + 2 * more, *geometry.volume_shape[1:]))
    return forward_project(jnp.pad(ct, ((more, more), (0, 0), (0, 0)), mode="edge"), pose, taller)


def silhouette(pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Return each ray's path through the cube, as a share of the longest."""
    path = forward_project(jnp.ones(geometry.volume_shape), pose, geometry)
    return path / jnp.max(path)


@partial(jax.jit, static_argnums=1)
def nominal_silhouette(angle_deg: Float[Array, ""], geometry: ConeBeamGeometry) -> Image:
    """Return the silhouette of the cube in a view at its nominal pose."""
    return silhouette(Placement.nominal().pose(angle_deg, geometry), geometry)


def straightened(film: Film, placement: Placement, angle_deg: Float[Array, ""], geometry: ConeBeamGeometry) -> Image:
    """Bring a film to its nominal view, except for the cube's silhouette, which stays where it is: see `resampled`.

    Args:
      film: (h, w), dimmed by the silhouette as training views are; or with a margin that is as dim as the view's edge.
      placement: of the film.
      angle_deg: of the nominal view, in degrees.
      geometry: of source and detector.
    """
    dimmed = jnp.maximum(nominal_silhouette(angle_deg, geometry), DIM)
    wide = jnp.pad(dimmed, around(dimmed.shape, film.shape), mode="edge")
    return resampled(film / wide, placement, angle_deg, geometry) * dimmed


def resampled(film: Film, placement: Placement, angle_deg: Float[Array, ""], geometry: ConeBeamGeometry) -> Image:
    """Resample a film as the nominal view would show what lies in the isocentre's plane; elsewhere perspective differs.

    Between pixels the film is linear, beyond its edge it goes on.

    Args:
      film: (h, w), or with a margin.
      placement: of the film.
      angle_deg: of the nominal view, in degrees.
      geometry: of source and detector.
    """
    return interpolated(film, _places(placement, angle_deg, geometry, film.shape))


def margin_of(shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how many rows and how many columns a framed film has before and after a view of this shape."""
    rows, columns = (round(AROUND * n) for n in shape)
    return (rows, rows), (columns, columns)


def around(view: tuple[int, ...], film: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return how many rows and columns a film of one shape has before and after a view of another in its middle."""
    return [((whole - inner) // 2,) * 2 for inner, whole in zip(view, film, strict=True)]


def middle_of(film: tuple[int, ...], view: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the rows and columns of a view of one shape in the middle of a film of another."""
    return tuple(slice(before, before + n) for (before, _), n in zip(around(view, film), view, strict=True))


def _places(
    placement: Placement, angle_deg: Float[Array, ""], geometry: ConeBeamGeometry, shape: tuple[int, ...]
) -> tuple[Image, Image]:
    """Return the row and column, in pixels of a film of this shape, of what the nominal view's pixels show.

    What they show is at the isocentre.
    """
    nominal, pose = Placement.nominal().pose(angle_deg, geometry), placement.pose(angle_deg, geometry)
    rows, columns = (jnp.asarray(slopes) for slopes in detector_slopes(geometry))
    row, column, beam = rotation(nominal)
    ray = rows[:, None, None] * row + columns[None, :, None] * column + beam
    point = source_position(nominal, geometry) + geometry.source_isocentre_mm * ray
    seen = (point - source_position(pose, geometry)) @ rotation(pose).T
    along, across = (
        seen[..., i] / seen[..., 2] * geometry.source_detector_mm / pixel + (count - 1) / 2
        for i, (pixel, count) in enumerate(zip(geometry.pixel_mm, shape, strict=True))
    )
    return along, across
