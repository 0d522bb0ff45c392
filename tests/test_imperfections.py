"""Films as rooms make them are a function of the key alone, and each imperfection does what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.config import default_config
from dvg_jax.config.build import build_dvg
from dvg_jax.data.phantom import chest
from dvg_jax.imperfections import Imperfections
from dvg_jax.xray import ConeBeamGeometry

GEOMETRY = ConeBeamGeometry.covering(16)
ANGLES = jnp.array([[0.0, 90.0]] * 2)
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def cts():
    draw = jax.jit(chest, static_argnums=1)
    return jnp.stack([draw(jax.random.key(i), 16) for i in (0, 1)])[..., None]


def films(cts, key=KEY, **bounds):
    return Imperfections(**bounds).films(cts, ANGLES, key, GEOMETRY)


def test_the_key_decides(cts):
    bounds = {"height_mm": 10.0, "curve": 0.3, "noise": 0.02, "letters": 0.5, "collimation": 0.1}
    one, again, other = films(cts, **bounds), films(cts, **bounds), films(cts, jax.random.key(2), **bounds)
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).mean() > 0.01
    np.testing.assert_allclose(
        [one.min((2, 3)), one.max((2, 3))], [jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))], atol=1e-6
    )


def test_what_films_share_is_no_fault():
    """The first film says where the patient is, and the mean how large."""
    faults = Imperfections(height_mm=10.0, scale=0.05).draw(KEY, 50, 2)
    np.testing.assert_array_equal(faults.placement.height_mm[:, 0], 0)
    assert 5 < float(jnp.abs(faults.placement.height_mm[:, 1]).max()) <= 20
    np.testing.assert_allclose(faults.placement.scale.sum(1), 0, atol=1e-7)


def test_bounds_are_kept_and_reached():
    given = Imperfections(rotation_deg=3.0, curve=0.4, distance=0.2)
    faults, whole = given.draw(KEY, 200, 2), given.draw(KEY, 200, 2, whole=True)
    for name, bound in (("gamma", 0.4), ("distance", 0.2)):
        found, full = getattr(faults, name), getattr(whole, name)
        assert 0.95 * bound < float(jnp.abs(found).max()) <= bound
        np.testing.assert_allclose(jnp.abs(full), bound, rtol=1e-6)
        assert float(full.min()) == -float(full.max())
    assert 0 <= float(faults.bend.min()) < float(faults.bend.max()) <= 0.2


def test_a_curve_keeps_the_order_of_greys(cts):
    """Under a curve alone the brighter pixel stays the brighter one."""
    straight, curved = films(cts, noise=1e-9), films(cts, curve=0.6, noise=1e-9)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    for a, b in zip(straight[inner].reshape(4, -1), curved[inner].reshape(4, -1), strict=True):
        order = np.argsort(a)
        assert np.diff(np.asarray(b)[order]).min() > -1e-4
        assert np.abs(a - b).max() > 0.03


def test_the_source_moves_and_the_size_stays(cts):
    """Another distance changes perspective alone: far less than a change of size by as much."""
    nominal = films(cts, noise=1e-9)
    away, larger = (jnp.abs(films(cts, noise=1e-9, **{name: 0.2}) - nominal).mean() for name in ("distance", "scale"))
    assert 0 < float(away) < 0.3 * float(larger)


def test_letters_and_borders(cts):
    plain = films(cts, noise=1e-9)
    lettered = films(cts, noise=1e-9, letters=1.0)
    assert 0 < float((jnp.abs(lettered - plain) > 0.05).mean()) < 0.2
    bordered = films(cts, noise=1e-9, collimation=0.3)
    assert (bordered[:, :, 8] == 0).sum() > (plain[:, :, 8] == 0).sum()


def test_training_sees_them_and_only_where_they_are_asked_for(cts):
    config = default_config()
    config.size, config.geometry = 16, "covering"
    ideal = build_dvg(config)
    np.testing.assert_array_equal(ideal.input_views(cts, KEY)[0], ideal.render(cts, ideal.angles))
    config.films.noise = 0.05
    noisy = build_dvg(config)
    one, again, other = (noisy.input_views(cts, key)[0] for key in (KEY, KEY, jax.random.key(5)))
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).mean() > 0.01
