"""Planted heights, sizes and turns of films are found again; the CT they are compared with is the truth here."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.alignment import ALIKE, align, compare_rows, register, straighten
from dvg_jax.data.phantom import chest
from dvg_jax.imperfections import Faults, Imperfections
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.placement import (
    DIM,
    Placement,
    film_of_patient,
    margin_of,
    middle_of,
    nominal_silhouette,
    straightened,
)

GEOMETRY = ConeBeamGeometry.covering(32)
CASES = 3
ANGLES = jnp.tile(jnp.array([[0.0, 90.0]]), (CASES, 1))
HEIGHTS = jnp.array([[0.0, 12.0], [0.0, -9.0], [0.0, 4.0]])
SIZES = jnp.array([[0.02, -0.02], [0.0, 0.0], [-0.01, 0.01]])
TURNS = jnp.array([[2.0, 0.0], [-1.5, 2.0], [0.0, -2.0]])


@pytest.fixture(scope="module")
def cts():
    draw = jax.jit(chest, static_argnums=1)
    return jnp.stack([draw(jax.random.key(i), 32) for i in range(CASES)])[..., None]


@pytest.fixture(scope="module")
def planted():
    zero = jnp.zeros((CASES, 2))
    return Faults(Placement(HEIGHTS, SIZES, TURNS, zero), zero, jnp.full((CASES, 2), 0.3), zero + 0.1)


@pytest.fixture(scope="module")
def films(cts, planted):
    """Return films out of place, under a curve, with noise."""
    return Imperfections(noise=0.01).films_of(cts, ANGLES, planted, jax.random.key(0), GEOMETRY)


def test_rows_alone_find_heights_and_sizes(films):
    place, likeness = compare_rows(films, ANGLES, GEOMETRY)
    np.testing.assert_allclose(place.height_mm, HEIGHTS, atol=4)
    np.testing.assert_allclose(place.scale, SIZES, atol=0.02)
    assert float(likeness.min()) > 0.6
    np.testing.assert_array_equal(place.roll_deg, 0)


def test_rows_of_another_patient_are_less_alike(films):
    exchanged = jnp.stack([films[:, 0], jnp.roll(films[:, 1], 1, axis=0)], axis=1)
    own, others = (compare_rows(f, ANGLES, GEOMETRY)[1][:, 1] for f in (films, exchanged))
    assert float(others.mean()) < float(own.mean()) - 0.05


def test_a_film_whose_rows_are_like_nothing_stays(films):
    """Its columns differ, and so do the rows of the third patient's films."""
    stripes = jnp.linspace(0, 1, 32) * jnp.maximum(nominal_silhouette(jnp.float32(90), GEOMETRY), DIM)
    place, likeness = compare_rows(films.at[:2, 1].set(stripes[..., None]), ANGLES, GEOMETRY)
    assert float(jnp.abs(likeness[:2, 1]).max()) < ALIKE < float(likeness[2, 1])
    for number in place:
        np.testing.assert_array_equal(number[:2], 0)
    assert float(place.height_mm[2, 1]) != 0


def test_a_ct_finds_the_placement_that_its_films_have(cts, films):
    start, _ = compare_rows(films, ANGLES, GEOMETRY)
    place = register(cts, films, start, ANGLES, GEOMETRY)
    np.testing.assert_allclose(place.height_mm, HEIGHTS, atol=0.7)
    np.testing.assert_allclose(place.scale, SIZES, atol=0.007)
    np.testing.assert_allclose(place.roll_deg, TURNS, atol=0.5)


def test_aligned_films_are_nearer_to_the_nominal_ones(cts, films, planted):
    """They are compared with films under no curve: their own is undone, too."""
    zero = jnp.zeros((CASES, 2))
    level = Faults(Placement.nominal(CASES, 2), zero, zero, zero)
    nominal = Imperfections().films_of(cts, ANGLES, level, jax.random.key(0), GEOMETRY)
    found = align(films, ANGLES, GEOMETRY, model=lambda _: cts)
    assert float(found.films.min()) == 0
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    curved = straighten(films, found.placement, ANGLES, GEOMETRY)
    before, level, after = (float(jnp.abs(x - nominal)[inner].mean()) for x in (films, curved, found.films))
    assert after < 0.6 * level < 0.6 * before


def test_what_a_margin_shows_comes_into_view(cts):
    """A film that was taken too low lacks the patient's shoulders, unless it is larger than the view."""
    ct, angle = cts[0, ..., 0], jnp.float32(0)
    lower, level = (Placement.nominal()._replace(height_mm=jnp.float32(mm)) for mm in (-40, 0))
    larger = replace(GEOMETRY, detector_shape=(40, 40))
    dimmed = jnp.maximum(nominal_silhouette(angle, GEOMETRY), DIM)
    nominal = film_of_patient(ct, level.pose(angle, GEOMETRY), GEOMETRY) * dimmed
    wide = film_of_patient(ct, lower.pose(angle, larger), larger) * jnp.pad(dimmed, margin_of((32, 32)), mode="edge")
    view = wide[middle_of(wide.shape, (32, 32))]
    off = [straightened(film, lower, angle, GEOMETRY) - nominal for film in (view, wide)]
    cut, shown = (float(jnp.abs(x[-4:, 4:-4]).mean() / nominal.max()) for x in off)
    assert shown < 0.02 < 0.2 < cut


def test_one_film_has_no_height(films):
    place, _ = compare_rows(films[:, :1], ANGLES[:, :1], GEOMETRY)
    for number in place:
        np.testing.assert_array_equal(number, 0)
    alone = straighten(films[:, :1], place, ANGLES[:, :1], GEOMETRY)
    np.testing.assert_allclose(alone, films[:, :1], atol=1e-3)
