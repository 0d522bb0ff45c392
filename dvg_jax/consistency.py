"""Make CTs agree with the films that they were made from.

A film fixes its rays' line integrals up to a curve: scale and offset are unknown since films are normalised by their
own extremes, and of its characteristic only that it is smooth is known. :func:`fit_films` looks for the smallest change
of a CT x that satisfies this, see ``docs/consistency.md``:

    minimise  |Q A (x + v)|^2 + lambda |v|^2,    v = A^T Q u,    (Q A A^T Q + lambda I) u = -Q A x

A renders line integrals, A^T is its transpose. Q removes from each view what a cubic of the film's values explains, so
any such curve gives the same CT. It also leaves out rays that do not cross the whole cube: the patient is not cut where
the cube is. Nothing changes where no ray goes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.sparse.linalg import cg
from jaxtyping import Float

from dvg_jax.finite import clipped
from dvg_jax.shapes import Image, Views, Volumes
from dvg_jax.xray import ConeBeamGeometry, view_pose
from dvg_jax.xray.placement import WHOLE
from dvg_jax.xray.views import Angles, Projector, ViewSets, project_views

MODES = ("none", "films", "refine")
"""CTs are made to agree with their films not at all, by :func:`fit_films`, or by a trained network before it."""

FOOTPRINT = 3
"""A ray weighs on no voxel that is farther from it than half of these voxels, in any projector."""


DEGREE = 3
"""A film's curve is a polynomial of this degree: with more, results are the same to 0.01 dB."""

TINY, ROUNDING = 1e-12, 1e-4


@dataclass(frozen=True)
class Fit:
    """Select how closely films are followed.

    Attributes:
      strength: lambda, in units of a ray's mean squared weight, the mean diagonal of A A^T. Larger is more cautious.
      iterations: of conjugate gradients.
    """

    strength: float = 0.03
    iterations: int = 6


def film_residual(projected: Views, films: Views, whole: Views) -> Views:
    """Return how much more of a line integral the films show than the CT has, up to the curve of each film: -Q A x.

    Args:
      projected: line integrals of the CT, (B, V, h, w, 1).
      films: on any scale and under any cubic curve, (B, V, h, w, 1).
      whole: 1 for rays that count and 0 for the others, (B, V, h, w, 1).
    """
    return -unexplained(projected, curves(films, whole), whole)


def fit_films(
    projector: Projector, geometry: ConeBeamGeometry, ct: Volumes, films: Views, angles: Angles, fit: Fit = Fit()
) -> Volumes:
    """Return the nearest CTs whose X-rays are the films, up to the curve of each, clipped to [0, 1].

    Each case is solved by itself, so that its result does not depend on the batch. Differentiable in reverse.

    Args:
      projector: one of ``PROJECTORS``; its forward form is A.
      geometry: of source, volume and detector.
      ct: the CTs to start from, (B, D, H, W, 1), [0, 1].
      films: (B, V, h, w, 1), on any scale and under any cubic curve.
      angles: of the films in degrees: of all cases, or a set for each.
      fit: how closely the films are followed.
    """
    if isinstance(angles, ViewSets):
        return _fit(projector, geometry, fit, (), ct, films, angles)
    return _fit(projector, geometry, fit, angles, ct, films, None)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fit(
    projector: Projector,
    geometry: ConeBeamGeometry,
    fit: Fit,
    angles: tuple[float, ...],
    ct: Volumes,
    films: Views,
    sets: ViewSets | None,
) -> Volumes:
    weight = fit.strength * ray_energy(projector, geometry)

    def case(ct: Array, films: Array, own: ViewSets | None) -> Array:
        one = None if own is None else jax.tree.map(lambda part: part[None], own)
        known = angles if one is None else one
        whole = whole_rays(projector, geometry, known, 1)[0]

        def project(x: Array) -> Array:
            return project_views(projector, geometry, x[None], known)[0]

        return clipped(ct + _change(project, ct, films, whole, weight, fit.iterations), 0, 1)

    return jax.vmap(case)(ct, films, sets)


def whole_rays(projector: Projector, geometry: ConeBeamGeometry, angles: Angles, cases: int) -> Views:
    """Return 1 for rays that cross the whole cube, and 0 for those near its edges and for the padding of sets.

    Args:
      projector: one of ``PROJECTORS``.
      geometry: of source, volume and detector.
      angles: of the views in degrees: of all cases, or a set for each.
      cases: B, the number of cases.
    """
    cubes = jnp.ones((cases if isinstance(angles, ViewSets) else 1, *geometry.volume_shape, 1))
    path = project_views(projector, geometry, cubes, angles)
    whole = path >= WHOLE * jnp.max(path, (2, 3), keepdims=True)
    if isinstance(angles, ViewSets):
        whole &= angles.weights[..., None, None, None] > 0
    return jnp.broadcast_to(whole, (cases, *whole.shape[1:])).astype(jnp.float32)


def _change(
    project: Callable[[Array], Array],
    ct: Array,
    films: Float[Array, "V h w 1"],
    whole: Float[Array, "V h w 1"],
    weight: float,
    iterations: int,
) -> Array:
    """Return v = A^T Q u of one case, (D, H, W, 1)."""
    projected, spread = jax.vjp(project, ct)
    explained = curves(films[None], whole[None])

    def left(images: Array) -> Array:
        return unexplained(images[None], explained, whole[None])[0]

    def normal(u: Array) -> Array:
        return left(project(*spread(left(u)))) + weight * u

    u, _ = cg(normal, -left(projected), tol=0.0, maxiter=iterations)
    return spread(left(u))[0]


def curves(films: Views, whole: Views) -> list[Views]:
    """Return an orthonormal basis of the cubics of each film's values, over the rays that count.

    Args:
      films: (B, V, h, w, 1).
      whole: 1 for rays that count and 0 for the others, (B, V, h, w, 1).
    """
    count = jnp.maximum(jnp.sum(whole, (2, 3), keepdims=True), 1)
    centred = films - jnp.sum(films * whole, (2, 3), keepdims=True) / count
    centred = whole * centred / jnp.maximum(jnp.max(jnp.abs(whole * centred), (2, 3), keepdims=True), TINY)
    basis: list[Views] = []
    for power in range(DEGREE + 1):
        rest = whole * centred**power
        for _ in range(2):  # once more, against rounding
            rest = _without(rest, basis)
        norm = jnp.sqrt(jnp.sum(rest**2, (2, 3), keepdims=True))
        # Of a film of few values the higher powers are nothing but rounding.
        basis.append(jnp.where(norm > ROUNDING * jnp.sqrt(count), rest / jnp.maximum(norm, TINY), 0))
    return basis


def unexplained(images: Views, explained: list[Views], whole: Views) -> Views:
    """Apply Q: leave what no curve of the film explains, of the rays that count."""
    return _without(whole * images, explained)


def _without(images: Views, basis: list[Views]) -> Views:
    """Remove each view's components along a basis."""
    for one in basis:
        images = images - jnp.sum(images * one, (2, 3), keepdims=True) * one
    return images


@cache
def ray_energy(projector: Projector, geometry: ConeBeamGeometry) -> float:
    """Return a ray's mean sum of squared weights, the mean diagonal of A A^T, of a frontal view.

    Rays so far apart that no voxel belongs to two of them are transposed together.
    """
    nearest = (geometry.source_isocentre_mm - geometry.extent_mm[1] / 2) / geometry.source_detector_mm
    pitch = min(p * nearest / max(geometry.voxel_mm) for p in geometry.pixel_mm)
    apart = math.ceil(FOOTPRINT / pitch)
    total = 0.0
    # Within a program that is being traced, the number is computed at once: it is a constant of the geometry.
    with jax.ensure_compile_time_eval():
        for row, column in np.ndindex(apart, apart):
            comb = np.zeros(geometry.detector_shape, np.float32)
            comb[row::apart, column::apart] = 1
            total += float(_squared_weights(projector, geometry, comb))
    return total / math.prod(geometry.detector_shape)


@partial(jax.jit, static_argnums=(0, 1))
def _squared_weights(projector: Projector, geometry: ConeBeamGeometry, image: Image) -> Array:
    """Return |A^T image|^2 of a frontal view."""
    poses = view_pose(0.0)[None]
    _, spread = jax.vjp(lambda x: projector.forward(x, poses, geometry), jnp.zeros(geometry.volume_shape))
    return jnp.sum(spread(image[None])[0] ** 2)
