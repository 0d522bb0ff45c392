"""Films out of place are projected at their own poses, and brought back to the nominal view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.data.phantom import chest
from dvg_jax.xray import ConeBeamGeometry, forward_project, view_pose
from dvg_jax.xray.placement import WHOLE, Placement, film_of_patient, nominal_silhouette, straightened

GEOMETRY = ConeBeamGeometry.covering(32)
MM_A_ROW = 320 / 32 * 1000 / 936  # the covering geometry's pixel at the isocentre


def placed(**numbers):
    return Placement.nominal()._replace(**{name: jnp.float32(x) for name, x in numbers.items()})


@pytest.fixture(scope="module")
def ct():
    return jax.jit(chest, static_argnums=1)(jax.random.key(3), 32)


@pytest.fixture(scope="module")
def film():
    return jax.jit(lambda ct, place, angle: film_of_patient(ct, place.pose(angle, GEOMETRY), GEOMETRY))


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_nominal_placement_is_the_level_view(ct, angle):
    pose = Placement.nominal().pose(jnp.float32(angle), GEOMETRY)
    np.testing.assert_allclose(pose, view_pose(angle), atol=1e-6)
    found, level = (forward_project(ct, p, GEOMETRY) for p in (pose, view_pose(angle)))
    whole = nominal_silhouette(jnp.float32(angle), GEOMETRY) >= WHOLE
    assert jnp.abs(found - level)[whole].max() < 0.05 * level.max()


def test_each_number_does_what_it_says(film):
    """A soft ball above the centre, left of the middle, is followed over the film."""
    d, h, w = jnp.meshgrid(*(jnp.arange(32) - middle for middle in (20.0, 15.5, 22.0)), indexing="ij")
    ball = jnp.exp(-(d**2 + h**2 + w**2) / 18)

    def middle(**numbers):
        image = film(ball, placed(**numbers), jnp.float32(0))
        rows, columns = (jnp.arange(32) - 15.5,) * 2
        return np.array([(image.sum(1) * rows).sum(), (image.sum(0) * columns).sum()]) / image.sum()

    start = middle()
    np.testing.assert_allclose(middle(height_mm=20.0) - start, [-20 / MM_A_ROW, 0], atol=0.05)
    np.testing.assert_allclose(middle(scale=0.05), start * np.exp(0.05), rtol=0.02)
    turn = np.deg2rad(4.0)
    turned = middle(roll_deg=4.0) - start
    np.testing.assert_allclose(np.abs(turned), turn * np.abs(start[::-1]), rtol=0.15)
    assert np.sign(turned).tolist() in ([1, -1], [-1, 1])
    # A tilt raises the source, which moves what lies off the isocentre's plane: here next to nothing.
    assert np.abs(middle(tilt_deg=4.0) - start).max() < 0.1


@pytest.mark.parametrize(
    "numbers",
    [{"height_mm": 15.0}, {"scale": 0.05}, {"roll_deg": 4.0}, {"height_mm": -8.0, "scale": -0.03, "roll_deg": 2.0}],
)
@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_straightened_films_are_nearly_the_nominal_ones(ct, film, numbers, angle):
    angle = jnp.float32(angle)
    dimmed = nominal_silhouette(angle, GEOMETRY)
    nominal, other = (film(ct, place, angle) * dimmed for place in (Placement.nominal(), placed(**numbers)))
    back = jax.jit(lambda *x: straightened(*x, GEOMETRY))(other, placed(**numbers), angle)
    inner = (slice(4, -4), slice(4, -4))
    before, after = (float(jnp.abs(x - nominal)[inner].mean() / nominal[inner].mean()) for x in (other, back))
    assert after < 0.4 * before
    assert after < 0.04  # what pixels of 11 mm lose when they are resampled


def test_the_patient_goes_on_beyond_the_cube(film):
    """A film from 20 mm lower sees below the cube's end what its last slice shows."""
    even = jnp.ones((32, 32, 32))
    image = film(even, placed(height_mm=-20.0), jnp.float32(0))
    middle = image[:, 16]
    assert float(middle[0]) > 0.9 * float(middle[16])
