"""Films decide what films can decide; these are the laws of ``dvg_jax.consistency``."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.consistency import Fit, film_residual, fit_films, ray_energy, whole_rays
from dvg_jax.data.phantom import chest
from dvg_jax.xray import ConeBeamGeometry, ray_coverage, view_pose
from dvg_jax.xray.views import PROJECTORS, ViewSets, minmax, project_views

SIZE, ANGLES = 8, (0.0, 90.0)
WIDE = ConeBeamGeometry.covering(SIZE)
NARROW = replace(WIDE, pixel_mm=tuple(pixel / 3 for pixel in WIDE.pixel_mm))
OURS = PROJECTORS["default"]
SOLVED = Fit(iterations=30)
"""So many iterations solve the system."""


def project(ct, angles=ANGLES, geometry=WIDE):
    return project_views(OURS, geometry, ct, angles)


def films_of(ct, angles=ANGLES, geometry=WIDE):
    return minmax(project(ct, angles, geometry)[..., 0])[..., None]


def left(ct, films, angles=ANGLES, projector=OURS):
    """Return the squares of what the films show and the CTs do not."""
    whole = whole_rays(projector, WIDE, angles, len(ct))
    return float(jnp.sum(film_residual(project_views(projector, WIDE, ct, angles), films, whole) ** 2))


@pytest.fixture(scope="module")
def cts():
    """Return two chests to start from, and the two whose films are followed."""
    keys = jax.random.split(jax.random.key(4), 4)
    all_cts = jnp.stack([chest(key, SIZE) for key in keys])[..., None]
    return all_cts[:2], all_cts[2:]


@pytest.fixture(scope="module")
def matrix():
    """Return A, (V h w, D H W), in double precision."""
    columns = jax.jacobian(lambda x: project(x.reshape(1, *WIDE.volume_shape, 1)).reshape(-1))(jnp.zeros(SIZE**3))
    return np.asarray(columns, np.float64)


def dense_solution(matrix, start, film, strength):
    """Solve (Q A A^T Q + lambda I) u = -Q A x, with Q from a QR decomposition of a film's powers, view by view."""
    rays = SIZE**2
    q = np.zeros((2 * rays, 2 * rays))
    paths = matrix.sum(axis=1).reshape(2, rays)
    for v in range(2):
        whole = np.diag((paths[v] >= 0.97 * paths[v].max()).astype(float))
        known = whole @ np.stack([np.asarray(film[v], np.float64).reshape(-1) ** n for n in range(4)], axis=1)
        basis, _ = np.linalg.qr(known)
        q[v * rays : (v + 1) * rays, v * rays : (v + 1) * rays] = whole - basis @ basis.T
    qa, x = q @ matrix, np.asarray(start, np.float64).reshape(-1)
    weight = strength * np.sum(matrix**2, axis=1).mean()
    u = np.linalg.solve(qa @ qa.T + weight * np.eye(2 * rays), -qa @ x)
    return np.clip(x + qa.T @ u, 0, 1).reshape(start.shape)


def test_strength_is_relative_to_the_mean_squared_weight_of_a_ray(matrix):
    assert ray_energy(OURS, WIDE) == pytest.approx(np.sum(matrix**2, axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("strength", [0.03, 0.3])
def test_equals_the_dense_solution(cts, matrix, strength):
    start, truth = cts
    films = films_of(truth)
    found = fit_films(OURS, WIDE, start, films, ANGLES, Fit(strength, SOLVED.iterations))
    for i in range(2):
        want = dense_solution(matrix, start[i], films[i], strength)
        assert np.abs(want - start[i]).max() > 0.05
        np.testing.assert_allclose(found[i], want, atol=2e-6)  # rounding of float32 in 30 iterations


def test_scale_and_offset_of_each_film_do_not_matter(cts):
    start, truth = cts
    films = films_of(truth)
    scale, offset = jnp.array([0.2, 30.0])[None, :, None, None, None], jnp.array([5.0, -2.0])[None, :, None, None, None]
    found, other = (fit_films(OURS, WIDE, start, f, ANGLES) for f in (films, scale * films + offset))
    assert jnp.abs(found - start).max() > 0.05
    np.testing.assert_allclose(other, found, atol=1e-4)  # an offset of 5 costs two digits of a film's float32


def test_curve_of_a_film_does_not_matter(cts):
    """A line integral that is a cubic of the film is explained; by a straight line it would not be."""
    _, truth = cts
    lines = project(truth)
    films = films_of(truth)
    curved = lines * (1 + 0.3 * films - 0.2 * films**2)
    assert left(truth, films) < 1e-6
    whole = whole_rays(OURS, WIDE, ANGLES, 2)
    assert float(jnp.sum(film_residual(curved, films, whole) ** 2)) < 1e-6 * float(jnp.sum((whole * curved) ** 2))


def test_rays_at_the_edge_of_the_cube_do_not_count(cts):
    """A patient goes on where the cube ends: what films show there is no CT's fault."""
    start, truth = cts
    films = films_of(truth)
    whole = whole_rays(OURS, WIDE, ANGLES, 2)
    assert 0.3 < float(whole.mean()) < 0.9
    marked = jnp.where(whole > 0, films, 1.0)
    found, other = (fit_films(OURS, WIDE, start, f, ANGLES) for f in (films, marked))
    np.testing.assert_array_equal(found, other)


def test_the_residual_falls_with_iterations_and_grows_with_strength(cts):
    start, truth = cts
    films = films_of(truth)
    before = left(start, films)
    after = [left(fit_films(OURS, WIDE, start, films, ANGLES, Fit(0.03, n)), films) for n in (1, 3, 6)]
    assert before > after[0] > after[1] > after[2]
    assert after[2] < before / 10
    assert after[2] < left(fit_films(OURS, WIDE, start, films, ANGLES, Fit(0.3, 6)), films) < before


def test_ct_that_agrees_with_its_films_is_kept(cts):
    _, truth = cts
    np.testing.assert_allclose(fit_films(OURS, WIDE, truth, films_of(truth), ANGLES), truth, atol=1e-6)


def test_nothing_changes_where_no_ray_goes(cts):
    start, truth = cts
    found = fit_films(OURS, NARROW, start, films_of(truth, geometry=NARROW), ANGLES)
    reach = np.asarray(ray_coverage(np.stack([view_pose(a) for a in ANGLES]), NARROW))
    # A ray between two voxels weighs on both, and the level form moves rays by up to 0.4 voxels along D.
    for axis in (0, 0, 1, 2):
        reach = reach | np.roll(reach, 1, axis) | np.roll(reach, -1, axis)
    assert (~reach).any()
    np.testing.assert_array_equal(found[:, ~reach], start[:, ~reach])


def test_case_does_not_depend_on_its_batch(cts):
    start, truth = cts
    films = films_of(truth)
    both = fit_films(OURS, WIDE, start, films, ANGLES)
    alone = fit_films(OURS, WIDE, start[1:], films[1:], ANGLES)
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)


def test_padding_of_view_sets_changes_nothing(cts):
    start, truth = cts
    sets = ViewSets(jnp.array([[0.0, 90.0, 20.0]] * 2), jnp.array([[0.5, 0.5, 0.0]] * 2))
    films = jnp.concatenate([films_of(truth), jnp.ones((2, 1, SIZE, SIZE, 1)) * jnp.arange(SIZE)[:, None, None]], 1)
    found = fit_films(OURS, WIDE, start, films, sets)
    level = fit_films(OURS, WIDE, start, films[:, :2], ANGLES)
    assert jnp.abs(found - start).max() > 0.05
    # The general projector samples rays elsewhere than the one for known poses.
    np.testing.assert_allclose(found, level, atol=0.05)
    garbage = films.at[:, 2].set(7 - films[:, 2])
    np.testing.assert_allclose(fit_films(OURS, WIDE, start, garbage, sets), found, atol=1e-6)


def test_flat_film_and_one_view(cts):
    start, _ = cts
    found = fit_films(OURS, WIDE, start, jnp.zeros((2, 1, SIZE, SIZE, 1)), (0.0,))
    assert bool(jnp.isfinite(found).all())
    flat = jnp.zeros((2, 1, SIZE, SIZE, 1))
    assert left(found, flat, (0.0,)) < left(start, flat, (0.0,))


def test_published_projector_is_followed_too(cts):
    start, truth = cts
    theirs = PROJECTORS["published"]
    lines = [project_views(theirs, WIDE, x, ANGLES) for x in (start, truth)]
    films = minmax(lines[1][..., 0])[..., None]
    found = fit_films(theirs, WIDE, start, films, ANGLES)
    assert left(found, films, projector=theirs) < left(start, films, projector=theirs) / 10
