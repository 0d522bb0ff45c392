"""Find how films were taken otherwise than their nominal views, and bring them there.

    films --row sums--> heights and sizes against each other --straightened--> films --model--> CT
      '-- X-rays of the CT, by gradients of the pose --> placements --straightened--> films --model--> CT
                                   X-rays of the CT --> curves --linearised--> films at their nominal views

Without a model: line integrals along a row add up to the integral over the row's plane, which films from all sides
share. It is order 0 of the consistency conditions (for a cone beam: Aichert et al. 2015, IEEE Trans Med Imaging
34:2205); divergence within a chest is neglected. With a model: the placement at which the X-rays of its CT are most
like the films, whatever curve each film has, and which is not far from the one that the sums gave. Then the curve of
each film that the X-rays of the model's CT give, which is undone.

The patient's place is where the first film shows it, and the patient's size is the mean of what the films show.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from dvg_jax.consistency import curves, unexplained
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.film_curve import FilmCurve, cautious, film_curves, linearised
from dvg_jax.shapes import Views, Volume, Volumes
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.placement import (
    DIM,
    WHOLE,
    Placement,
    film_of_patient,
    middle_of,
    nominal_silhouette,
    straightened,
)
from dvg_jax.xray.views import minmax

HEIGHTS_MM = np.arange(-45.0, 45.5, 1.0)
"""Heights of one film against the first are searched on this grid."""

SIZES = np.linspace(-0.16, 0.16, 33)
"""Logarithms of sizes are searched on this one."""

FAR_MM, FAR_SIZE, PULL = 30.0, 0.1, 0.1
"""At these heights and sizes the likeness of the row sums, 1 at best, counts for so much less than at 0."""

ALIKE = 0.3
"""Row sums that are less alike say nothing: of 18 true pairs those of one with a cut film, 0.11, the next 0.39."""

FINER, BLUR_MM = 8, 5.0
"""Row sums are interpolated to so many values a row, and blurred by a Gaussian of this standard deviation."""

LEFT = (5.0, 0.03, 2.0, 2.0)
"""These standard deviations are of what the row sums leave to be found, in the order of a placement's fields."""

RAYS, STEPS = 30.0, 20
"""A film's rays count as so many independent ones, since more would trust the CT more; L-BFGS takes so many steps."""


class Alignment(NamedTuple):
    """Hold films at their nominal views, and how they were taken.

    Attributes:
      films: (B, V, h, w, 1), [0, 1].
      placement: of each film as it was given, (B, V).
      likeness: correlation of the row sums' slopes with the first film's, (B, V), 1 at most.
      curve: of each film, (B, V, n), which was undone; a straight line without a model.
    """

    films: Views
    placement: Placement
    likeness: Array
    curve: FilmCurve


def align(
    films: Views,
    angles: Float[Array, "B V"],
    geometry: ConeBeamGeometry,
    model: Callable[[Views], Volumes] | None = None,
    fit: Callable[[Volumes, Views], Volumes] | None = None,
) -> Alignment:
    """Bring films to their nominal views.

    Args:
      films: of the same patient in a row, (B, V, h, w, 1), [0, 1]; or with a margin, which comes into view where a
        film is moved. Without one, the film's edge goes on.
      angles: of the nominal views, in degrees.
      geometry: of source and detector.
      model: makes CTs of films at their nominal views; row sums alone decide without.
      fit: makes CTs agree with films at their nominal views, before curves are taken from them. Placements are found
        without, since a CT that agrees with films agrees with where these are.
    """
    rows, columns = middle_of(films.shape[2:4], geometry.detector_shape)
    views = films[:, :, rows, columns]
    place, likeness = compare_rows(views, angles, geometry)
    level = straighten(films, place, angles, geometry)
    if model is None:
        return Alignment(level, place, likeness, FilmCurve.straight(*films.shape[:2]))
    place = register(model(level), views, place, angles, geometry)
    level = straighten(films, place, angles, geometry)
    ct = model(level)
    linear, curve = linearise(ct if fit is None else fit(ct, level), level, angles, geometry)
    return Alignment(linear, place, likeness, curve)


@partial(jax.jit, static_argnums=3)
def straighten(films: Views, placement: Placement, angles: Float[Array, "B V"], geometry: ConeBeamGeometry) -> Views:
    """Bring films whose placements are known to their nominal views, and normalise them.

    Args:
      films: (B, V, h, w, 1), [0, 1], or with a margin.
      placement: of each film, (B, V).
      angles: of the nominal views, in degrees.
      geometry: of source and detector.
    """
    each = jax.vmap(jax.vmap(lambda film, place, angle: straightened(film, place, angle, geometry)))
    return minmax(each(films[..., 0], placement, angles))[..., None]


@partial(jax.jit, static_argnums=2)
def compare_rows(
    films: Views, angles: Float[Array, "B V"], geometry: ConeBeamGeometry
) -> tuple[Placement, Float[Array, "B V"]]:
    """Return height and size of each film by the sums of its rows, with rotations of 0, and their likeness.

    Films whose rows are unlike the first film's stay where they are.

    Args:
      films: (B, V, h, w, 1), on any scale.
      angles: of the nominal views, in degrees.
      geometry: of source and detector.
    """
    return jax.vmap(partial(_compare_rows, geometry=geometry))(films[..., 0], angles)


def _compare_rows(
    films: Float[Array, "V h w"], angles: Float[Array, "V"], geometry: ConeBeamGeometry
) -> tuple[Placement, Float[Array, "V"]]:
    rows, columns = (n // 2 for n in geometry.detector_shape)
    dimmed = jax.vmap(lambda angle: nominal_silhouette(angle, geometry))(angles)
    whole = dimmed >= WHOLE
    sums = jnp.sum(films / jnp.maximum(dimmed, DIM) * whole[:, rows, None], axis=2)
    mm = _row_mm(geometry) / FINER
    slopes = jax.vmap(lambda profile: _slope(profile, mm))(sums)
    inside = jnp.repeat(jnp.all(whole[:, :, columns], axis=0), FINER)
    places = (jnp.arange(len(inside)) + 0.5 - len(inside) / 2) * mm
    low, high = (end(jnp.where(inside, places, 0)) for end in (jnp.min, jnp.max))

    def likeness(slope: Array, height: Array, size: Array) -> Array:
        at = places * jnp.exp(size) - height
        weight = inside * (at > low) * (at < high)
        pair = (x - jnp.sum(weight * x) / jnp.sum(weight) for x in (slopes[0], jnp.interp(at, places, slope)))
        a, b = (x / jnp.sqrt(jnp.sum(weight * x**2) + 1e-20) for x in pair)
        return jnp.sum(weight * a * b)

    by_size = jax.vmap(likeness, (None, None, 0))
    grid = jnp.asarray(HEIGHTS_MM), jnp.asarray(SIZES)
    found = jax.vmap(jax.vmap(by_size, (None, 0, None)), (0, None, None))(slopes, *grid)
    pull = PULL * ((HEIGHTS_MM[:, None] / FAR_MM) ** 2 + (SIZES / FAR_SIZE) ** 2)
    best = jnp.argmax((found - pull).reshape(len(films), -1), axis=1)
    height, size = jnp.divmod(best, len(SIZES))
    zero = jnp.zeros(len(films))
    alike = jnp.take_along_axis(found.reshape(len(films), -1), best[:, None], axis=1)[:, 0]
    known = (alike >= ALIKE) & (jnp.arange(len(films)) > 0)
    place = Placement(jnp.where(known, grid[0][height], 0), jnp.where(known, grid[1][size], 0), zero, zero)
    return _without_patient(place), alike


def _slope(profile: Float[Array, "h"], mm: float) -> Float[Array, "n"]:
    """Return the derivative of row sums, blurred, on the finer grid, whose values are ``mm`` apart."""
    fine = jax.image.resize(profile, (len(profile) * FINER,), "cubic")
    reach = int(3 * BLUR_MM / mm) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * mm / BLUR_MM) ** 2)
    blurred = jnp.convolve(jnp.pad(fine, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
    return jnp.asarray(jnp.gradient(blurred, axis=0))


def _row_mm(geometry: ConeBeamGeometry) -> float:
    """Return what a row covers at the isocentre, in mm of the patient."""
    own = geometry.pixel_mm[0] * geometry.source_isocentre_mm / geometry.source_detector_mm
    return own * FIELD_MM / geometry.extent_mm[0]


def _without_patient(found: Placement) -> Placement:
    """Leave out what is the patient's: the first film's height, and the mean size. Films are the last axis."""
    height, scale = found.height_mm, found.scale
    return found._replace(height_mm=height - height[..., :1], scale=scale - scale.mean(axis=-1, keepdims=True))


@partial(jax.jit, static_argnums=4)
def register(
    ct: Volumes, films: Views, start: Placement, angles: Float[Array, "B V"], geometry: ConeBeamGeometry
) -> Placement:
    """Return the placements near ``start`` at which the X-rays of CTs are most like the films, up to each film's curve.

    Args:
      ct: (B, D, H, W, 1), [0, 1].
      films: as they were given, (B, V, h, w, 1).
      start: placements, (B, V).
      angles: of the nominal views, in degrees.
      geometry: of source, volume and detector.
    """

    def case(ct: Array, films: Array, start: Placement, angles: Array) -> Placement:
        dimmed = jax.vmap(lambda angle: nominal_silhouette(angle, geometry))(angles)
        whole = (dimmed >= WHOLE).astype(jnp.float32)[None, ..., None]
        basis = curves(films[None], whole)

        def moved(change: Placement) -> Placement:
            return Placement(*(first + unit * by for first, unit, by in zip(start, LEFT, change, strict=True)))

        def loss(change: Placement) -> Array:
            lines = _films_of(ct[..., 0], moved(change), angles, geometry)[None]
            left, all_of_it = (jnp.sum(unexplained(lines, by, whole) ** 2, (2, 3, 4)) for by in (basis, basis[:1]))
            far = sum(jnp.sum(x**2) for x in change)
            return RAYS / 2 * jnp.sum(jnp.log(left / all_of_it + 1e-6)) + far / 2

        # The line search evaluates the loss at many places: as a program of its own it is traced once.
        return _without_patient(moved(_least(jax.jit(loss), Placement.nominal(len(angles)))))

    return jax.vmap(case)(ct, films, start, angles)


@partial(jax.jit, static_argnums=3)
def linearise(
    ct: Volumes, films: Views, angles: Float[Array, "B V"], geometry: ConeBeamGeometry
) -> tuple[Views, FilmCurve]:
    """Return films whose greys rise evenly with the line integrals of CTs, and the curves that were undone.

    Args:
      ct: (B, D, H, W, 1), [0, 1].
      films: at their nominal views, (B, V, h, w, 1), [0, 1].
      angles: of the views, in degrees.
      geometry: of source, volume and detector.
    """
    dimmed = jax.vmap(jax.vmap(lambda angle: nominal_silhouette(angle, geometry)))(angles)
    nominal = Placement.nominal(angles.shape[1])
    lines = jax.vmap(partial(_films_of, geometry=geometry), (0, None, 0))(ct[..., 0], nominal, angles)
    found = cautious(film_curves(lines, films, (dimmed >= WHOLE).astype(jnp.float32)[..., None]))
    shown = films[..., 0] / jnp.maximum(dimmed, DIM)
    linear = jax.vmap(jax.vmap(linearised))(shown, *found) * jnp.maximum(dimmed, DIM)
    return minmax(linear)[..., None], found


def _films_of(
    ct: Volume, placement: Placement, angles: Float[Array, "V"], geometry: ConeBeamGeometry
) -> Float[Array, "V h w 1"]:
    """Return the line integrals of a patient's films."""
    poses = jax.vmap(lambda place, angle: place.pose(angle, geometry))(placement, angles)
    return jax.vmap(lambda pose: film_of_patient(ct, pose, geometry))(poses)[..., None]


def _least(loss: Callable[[Any], Array], start: Any) -> Any:
    """Return where a function is least, by ``STEPS`` of L-BFGS."""
    solver, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        x, state = carry
        value, gradient = value_and_grad(x, state=state)
        update, state = solver.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(x, update), state), None

    return jax.lax.scan(step, (start, solver.init(start)), None, length=STEPS)[0][0]
