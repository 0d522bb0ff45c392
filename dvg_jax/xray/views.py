"""Choose the angles of a batch's views, project them from CTs, and lift views into V_bp."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.shapes import Key, Poses, Projections, Views, Volume, Volumes
from dvg_jax.xray import published
from dvg_jax.xray.geometry import ConeBeamGeometry, view_pose
from dvg_jax.xray.projector import back_project_views, forward_project_views

RANGES = (90, 360)
"""Degrees over which views are spread: 90 with both ends (the released code), 360 without its end (inferred: otherwise
the first and the last view would be the same).
"""


class Projector(NamedTuple):
    """Pair both directions of a projector: images of a volume at poses, and V_bp, their sum, at the networks' scale."""

    forward: Callable[[Volume, Poses, ConeBeamGeometry], Projections]
    back: Callable[[Projections, Poses, ConeBeamGeometry], Volume]


def _back_project_to_one(images: Projections, poses: Poses, geometry: ConeBeamGeometry) -> Volume:
    """Sum Eq. (1), image / path length in mm, over views, times the depth: a uniform view of 1 gives about 1."""
    return back_project_views(images, poses, geometry) * geometry.extent_mm[1]


PROJECTORS = {
    "default": Projector(forward_project_views, _back_project_to_one),
    "published": Projector(published.forward_project_views, published.back_project_views),
}
"""The projectors by the name in ``config.projector``. ``default`` is Eq. (9) in mm and Eq. (1), both with voxel i at
i + 1/2. ``published`` is the released kernels, with their scales, rounding and half a voxel between both directions.
"""


class ViewSets(NamedTuple):
    """Hold views whose angles are data: a set for each case, padded to the longest.

    Attributes:
      angles: degrees.
      weights: of each view in V_bp: 1 / n for the n views that a case has, 0 for the others.
    """

    angles: Float[Array, "B V"]
    weights: Float[Array, "B V"]


Angles = tuple[float, ...] | ViewSets
"""Degrees of all cases, known when a program is compiled, or sets that are data."""


def spread(count: int, degrees: int = 90) -> tuple[float, ...]:
    """Return ``count`` angles over 90 or 360 degrees, the first at 0. Raises UserError for another range."""
    if degrees not in RANGES or count < 1:
        raise UserError(
            f"{count} views over {degrees} degrees; allowed: 1 or more over {' or '.join(map(str, RANGES))}"
        )
    steps = count if degrees == 360 else max(count - 1, 1)
    return tuple(degrees * i / steps for i in range(count))


def table_of(angles: Angles, cases: int) -> Float[Array, "B V"]:
    """Return the angles of each of so many cases, in degrees."""
    if isinstance(angles, ViewSets):
        return angles.angles
    return jnp.broadcast_to(jnp.asarray(angles, jnp.float32), (cases, len(angles)))


def random_view_sets(key: Key, cases: int, most: int) -> ViewSets:
    """Draw 1 to ``most`` views for each case, over 90 or 360 degrees; all counts and both ranges are equally likely.

    Args:
      key: decides counts and ranges.
      cases: B, the number of sets.
      most: V, the length that all sets are padded to.
    """
    key_count, key_range = jax.random.split(key)
    count = jax.random.randint(key_count, (cases, 1), 1, most + 1)
    around = jax.random.bernoulli(key_range, shape=(cases, 1))
    step = jnp.where(around, 360 / count, 90 / jnp.maximum(count - 1, 1))
    place = jnp.arange(most)
    return ViewSets(step * place, jnp.where(place < count, 1 / count, 0.0))


@jax.jit
def minmax(images: Array) -> Array:
    """Scale each image (..., h, w) to [0, 1] by its own extremes; a flat image becomes 0."""
    low = images.min(axis=(-2, -1), keepdims=True)
    span = images.max(axis=(-2, -1), keepdims=True) - low
    return (images - low) / jnp.where(span > 0, span, 1)


def project_views(projector: Projector, geometry: ConeBeamGeometry, ct: Volumes, angles: Angles) -> Views:
    """Return line integrals of each CT, Eq. (9).

    Args:
      projector: one of ``PROJECTORS``.
      geometry: of source, volume and detector.
      ct: volumes, (B, D, H, W, 1).
      angles: of the views in degrees: of all CTs, or a set for each.
    """
    if isinstance(angles, ViewSets):
        return _project_sets(projector, geometry, ct, angles.angles)
    if not angles:
        return jnp.zeros((len(ct), 0, *geometry.detector_shape, 1))
    return _project(projector, geometry, angles, ct)


def lift_views(
    projector: Projector, geometry: ConeBeamGeometry, views: Views, angles: Angles, mean: bool = False
) -> Volumes:
    """Return V_bp, Eqs. (1) and (2).

    Args:
      projector: one of ``PROJECTORS``.
      geometry: of source, volume and detector.
      views: the images of each case, (B, V, h, w, 1).
      angles: of the views in degrees: of all cases, or a set for each.
      mean: average the views' back projections instead of summing them; sets have weights of their own.
    """
    if isinstance(angles, ViewSets):
        return _lift_sets(projector, geometry, views, angles)
    return _lift(projector, geometry, angles, mean, views)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _project(projector: Projector, geometry: ConeBeamGeometry, angles: tuple[float, ...], ct: Volumes) -> Views:
    poses = np.stack([view_pose(a) for a in angles])
    return jax.vmap(lambda volume: projector.forward(volume, poses, geometry))(ct[..., 0])[..., None]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _lift(
    projector: Projector, geometry: ConeBeamGeometry, angles: tuple[float, ...], mean: bool, views: Views
) -> Volumes:
    poses = np.stack([view_pose(a) for a in angles])
    total = jax.vmap(lambda images: projector.back(images, poses, geometry))(views[..., 0])[..., None]
    return total / len(angles) if mean else total


@partial(jax.jit, static_argnums=(0, 1))
def _project_sets(projector: Projector, geometry: ConeBeamGeometry, ct: Volumes, angles: Float[Array, "B V"]) -> Views:
    def view(volume: Array, angle: Array) -> Array:
        return projector.forward(volume, view_pose(angle)[None], geometry)[0]

    # View after view: program and memory are those of one projection, for any number of views.
    cases = jax.vmap(lambda volume, angles: jax.lax.map(partial(view, volume), angles))
    return cases(ct[..., 0], angles)[..., None]


@partial(jax.jit, static_argnums=(0, 1))
def _lift_sets(projector: Projector, geometry: ConeBeamGeometry, views: Views, sets: ViewSets) -> Volumes:
    def add(total: Array, view: tuple[Array, ...]) -> tuple[Array, None]:
        image, angle, weight = view
        return total + weight * projector.back(image[None], view_pose(angle)[None], geometry), None

    def case(*parts: Array) -> Array:
        return jax.lax.scan(add, jnp.zeros(geometry.volume_shape), parts)[0]

    return jax.vmap(case)(views[..., 0], sets.angles, sets.weights)[..., None]
