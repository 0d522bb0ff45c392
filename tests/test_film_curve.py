"""A film's curve is found from the line integrals of its CT, and undone without harm where it cannot be known."""

import jax.numpy as jnp
import numpy as np

from dvg_jax.film_curve import KNOTS, TRUST, FilmCurve, cautious, film_curves, linearised

FILM = jnp.linspace(0, 1, 32 * 32).reshape(1, 1, 32, 32, 1)


def test_the_curve_of_a_film_is_found():
    found = film_curves(5 + 3 * FILM + 2 * FILM**2, FILM, jnp.ones_like(FILM))
    assert found.greys.shape == found.lines.shape == (1, 1, KNOTS)
    np.testing.assert_allclose(found.lines, 5 + 3 * found.greys + 2 * found.greys**2, rtol=1e-4)
    assert 0 < float(found.greys.min()) < float(found.greys.max()) < 1
    assert (float(found.rise[0, 0, 0]), float(found.rise[0, 0, -1])) == (0, 1)


def test_rays_that_do_not_count_decide_nothing():
    whole = (FILM < 0.5).astype(jnp.float32)
    found = film_curves(jnp.where(FILM < 0.5, 3 * FILM, 0), FILM, whole)
    np.testing.assert_allclose(found.lines, 3 * found.greys, atol=1e-3)


def test_a_straight_curve_changes_nothing_but_the_scale():
    greys = jnp.linspace(0.2, 0.8, KNOTS)
    for lines in (40 * greys, 40 * greys + 7):
        curve = cautious(FilmCurve(greys, lines))
        np.testing.assert_allclose(linearised(FILM[0, 0, ..., 0], *curve), FILM[0, 0, ..., 0], atol=1e-5)


def test_a_bent_curve_is_undone_as_far_as_it_is_trusted():
    greys = jnp.linspace(0.1, 1, KNOTS)
    curve = cautious(FilmCurve(greys, greys**2))
    straight, full = greys - greys.mean(), greys**2 - (greys**2).mean()
    full = full * float(jnp.sum(straight**2) / jnp.sum(straight * full))
    bent = np.asarray(linearised(greys[None], *curve)[0])
    np.testing.assert_allclose(bent - bent.mean(), TRUST * full + (1 - TRUST) * straight, atol=1e-5)


def test_a_film_keeps_the_order_of_its_greys_and_its_black():
    """A cubic may fall; where it does, greys become equal, and neither end runs away."""
    greys = jnp.linspace(0.1, 0.9, KNOTS)
    for lines in (jnp.sin(6 * greys), -greys, jnp.zeros(KNOTS)):
        film = np.asarray(linearised(FILM[0, 0, ..., 0], *cautious(FilmCurve(greys, lines)))).ravel()
        assert np.isfinite(film).all()
        assert (np.diff(film) >= -1e-6).all()
        assert film[0] == 0
