"""Make CTs agree with the films that they were made from.

A film fixes its rays' line integrals up to a scale and an offset, since films are normalised by their own extremes.
:func:`fit_films` looks for the smallest change of a CT x that satisfies this, see ``docs/consistency.md``:

    minimise  |Q A (x + v)|^2 + lambda |v|^2,    v = A^T Q u,    (Q A A^T Q + lambda I) u = -Q A x

A renders line integrals, A^T is its transpose. Q removes the span of {1, film} from each view: what is left is no
multiple of the film, so any scale and offset of a film give the same CT. Nothing changes where no ray goes.
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

from dvg_jax.shapes import Image, Views, Volumes
from dvg_jax.xray import ConeBeamGeometry, view_pose
from dvg_jax.xray.views import Angles, Projector, ViewSets, project_views

MODES = ("none", "films", "refine")
"""CTs are made to agree with their films not at all, by :func:`fit_films`, or by a trained network before it."""

FOOTPRINT = 3
"""A ray weighs on no voxel that is farther from it than half of these voxels, in any projector."""


@dataclass(frozen=True)
class Fit:
    """Select how closely films are followed.

    Attributes:
      strength: lambda, in units of a ray's mean squared weight, the mean diagonal of A A^T. Larger is more cautious.
      iterations: of conjugate gradients.
    """

    strength: float = 0.03
    iterations: int = 6


def film_residual(projected: Views, films: Views) -> Views:
    """Return ``a + b film - projected``, with the a and b of each view that make its squares least: -Q A x.

    Args:
      projected: line integrals of the CT, (B, V, h, w, 1).
      films: on any scale, (B, V, h, w, 1). A flat film explains nothing but the mean.
    """
    return -_unexplained(projected, films)


def fit_films(
    projector: Projector, geometry: ConeBeamGeometry, ct: Volumes, films: Views, angles: Angles, fit: Fit = Fit()
) -> Volumes:
    """Return the nearest CTs whose X-rays are the films, up to scale and offset of each, clipped to [0, 1].

    Each case is solved by itself, so that its result does not depend on the batch. Differentiable in reverse.

    Args:
      projector: one of ``PROJECTORS``; its forward form is A.
      geometry: of source, volume and detector.
      ct: the CTs to start from, (B, D, H, W, 1), [0, 1].
      films: (B, V, h, w, 1), on any scale.
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
        def project(x: Array) -> Array:
            if own is None:
                return project_views(projector, geometry, x[None], angles)[0]
            views = project_views(projector, geometry, x[None], jax.tree.map(lambda part: part[None], own))[0]
            return jnp.where(own.weights[:, None, None, None] > 0, views, 0)  # the others are padding

        return jnp.clip(ct + _change(project, ct, films, weight, fit.iterations), 0, 1)

    return jax.vmap(case)(ct, films, sets)


def _change(
    project: Callable[[Array], Array], ct: Array, films: Float[Array, "V h w 1"], weight: float, iterations: int
) -> Array:
    """Return v = A^T Q u of one case, (D, H, W, 1)."""
    projected, spread = jax.vjp(project, ct)

    def unexplained(images: Array) -> Array:
        return _unexplained(images[None], films[None])[0]

    def normal(u: Array) -> Array:
        return unexplained(project(*spread(unexplained(u)))) + weight * u

    u, _ = cg(normal, -unexplained(projected), tol=0.0, maxiter=iterations)
    return spread(unexplained(u))[0]


def _unexplained(images: Views, films: Views) -> Views:
    """Apply Q: remove mean and multiples of the film from each view."""
    images = images - images.mean((2, 3), keepdims=True)
    films = films - films.mean((2, 3), keepdims=True)
    square = jnp.sum(films**2, (2, 3), keepdims=True)
    share = jnp.sum(images * films, (2, 3), keepdims=True) / jnp.where(square > 0, square, 1)
    return images - share * films


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
