"""Sets of views: the paper's rule, random sets, and that sets which are data equal angles known beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.data.phantom import chest
from dvg_jax.errors import UserError
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.views import PROJECTORS, ViewSets, lift_views, minmax, project_views, random_view_sets, spread

GEOMETRY, PROJECTOR = ConeBeamGeometry.covering(16), PROJECTORS["default"]


def test_the_papers_rule():
    assert spread(1) == spread(1, 360) == (0,)
    assert spread(3) == (0, 45, 90)
    assert spread(4, 360) == (0, 90, 180, 270)
    assert spread(20)[-1] == 90
    assert spread(20, 360)[-1] == 342


@pytest.mark.parametrize(("count", "degrees"), [(0, 90), (3, 180)])
def test_other_sets_are_refused(count, degrees):
    with pytest.raises(UserError, match="views over"):
        spread(count, degrees)


def test_random_sets_are_the_papers_sets_all_equally_likely():
    sets = random_view_sets(jax.random.key(0), 4000, 5)
    found: dict[tuple, int] = {}
    for angles, weights in zip(np.asarray(sets.angles), np.asarray(sets.weights), strict=True):
        shown = tuple(np.round(angles[weights > 0], 3).tolist())
        assert weights.sum() == pytest.approx(1)
        assert weights[weights > 0] == pytest.approx(1 / len(shown))
        found[shown] = found.get(shown, 0) + 1
    assert set(found) == {tuple(np.round(spread(n, d), 3).tolist()) for n in range(1, 6) for d in (90, 360)}
    # 4000 draws of ten sets, one of which is drawn twice as often: 400 each within 5 standard deviations (19).
    single = found.pop((0.0,))
    assert abs(single - 800) < 130
    assert all(abs(n - 400) < 95 for n in found.values())


@pytest.fixture(scope="module")
def cts():
    return jnp.stack([jax.jit(chest, static_argnums=1)(jax.random.key(i), 16) for i in (0, 1)])[..., None]


def test_sets_that_are_data_equal_angles_known_beforehand(cts):
    """Views as the projector's two forms agree at edges of so few voxels, which is 5 to 8 %; V_bp to rounding."""
    angles = (0.0, 45.0, 90.0)
    sets = ViewSets(jnp.tile(jnp.asarray([*angles, 120.0]), (2, 1)), jnp.tile(jnp.asarray([1 / 3] * 3 + [0.0]), (2, 1)))
    views = project_views(PROJECTOR, GEOMETRY, cts, angles)
    by_data = project_views(PROJECTOR, GEOMETRY, cts, sets)
    assert by_data.shape == (2, 4, 16, 16, 1)
    error = by_data[:, :3] - views
    assert float(jnp.sqrt(jnp.mean(error**2) / jnp.mean(views**2))) < 0.08
    shown = minmax(by_data[..., 0])[..., None]
    lifted = lift_views(PROJECTOR, GEOMETRY, shown, sets)
    expected = lift_views(PROJECTOR, GEOMETRY, shown[:, :3], angles, mean=True)
    np.testing.assert_allclose(lifted, expected, atol=1e-5 * float(expected.max()))
    whole = lift_views(PROJECTOR, GEOMETRY, shown[:, :3], angles)
    np.testing.assert_allclose(expected, whole / 3, rtol=1e-6)


def test_each_case_has_its_own_set(cts):
    sets = ViewSets(jnp.asarray([[0.0, 90.0], [30.0, 0.0]]), jnp.asarray([[0.5, 0.5], [1.0, 0.0]]))
    views = project_views(PROJECTOR, GEOMETRY, cts, sets)
    others = ViewSets(sets.angles.at[0].set(45.0), sets.weights)
    np.testing.assert_array_equal(views[1:], project_views(PROJECTOR, GEOMETRY, cts, others)[1:])
    alone = ViewSets(sets.angles[1:], sets.weights[1:])
    # To rounding: for one case and for two XLA makes two programs, and not every processor adds in the same order.
    np.testing.assert_allclose(views[1:], project_views(PROJECTOR, GEOMETRY, cts[1:], alone), rtol=1e-6)
    lifted = lift_views(PROJECTOR, GEOMETRY, views, sets)
    expected = lift_views(PROJECTOR, GEOMETRY, views[1:, :1], (30.0,))
    np.testing.assert_allclose(lifted[1:], expected, atol=1e-5 * float(expected.max()))
