"""BX2S-Net: layers, learning, the lift."""

import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.baselines.bx2s import BX2SNet, lift
from dvg_jax.errors import UserError
from dvg_jax.xray import ConeBeamGeometry
from tests.baselines import common

TINY = {"base": 4}
BIPLANAR = (0.0, 90.0)


@pytest.mark.parametrize(("guided", "published"), [(True, 1_814_934), (False, 1_118_254)])
def test_parameters_and_output_at_paper_scale(guided, published):
    """The published counts are with two classes out and their batch norm, 438 numbers; ours is one channel, 217."""
    network = BX2SNet(BIPLANAR, guided=guided)
    found = common.output_like(network, common.views_like(2, common.PAPER_SIZE))
    assert found == (published - 438 + 217, (1, 128, 128, 128, 1))


@pytest.mark.parametrize("angles", [(0.0,), BIPLANAR])
def test_output_of_small_ones(angles):
    network = BX2SNet(angles, base=4)
    assert common.output_like(network, common.views_like(len(angles), 32))[1] == (1, 32, 32, 32, 1)


@pytest.fixture(scope="module")
def trial():
    return common.Trial("bx2s", 16, views=2, rate=5e-3, **TINY)


@pytest.mark.slow
def test_overfits_one_pair(trial):
    state, losses = trial.train(300)
    assert losses[-1] < losses[0] / 20
    assert trial.predict(state).shape == (1, 16, 16, 16, 1)


@pytest.mark.slow
def test_deterministic(trial):
    trial.assert_deterministic()


@pytest.mark.slow
def test_overfits_one_pair_at_32():
    _, losses = common.Trial("bx2s", 32, views=2, rate=5e-3).train(300)
    assert losses[-1] < losses[0] / 20


def test_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("bx2s", 16, **TINY)


@pytest.mark.parametrize("at", [(20, 10, 24), (9, 22, 12)])
def test_lifted_views_cross_at_the_voxel(at):
    _, dvg = common.build("bx2s", 32, views=2)
    common.assert_lines_cross(lambda v: jnp.split(lift(v, BIPLANAR), 2, axis=-1), dvg, at)


def test_each_view_is_scored_by_itself():
    size = ConeBeamGeometry.paper(16).detector_shape
    views = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 2, *size, 1)), jnp.float32)
    lifted = np.asarray(lift(views, BIPLANAR))
    np.testing.assert_allclose(lifted.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(lifted.std(axis=(1, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_array_equal(lift(jnp.ones((1, 1, 8, 8, 1)), (0.0,)), 0)


@pytest.mark.parametrize("settings", [{"base": 6}, {"loss": "huber"}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(UserError, match=f"bx2s.{next(iter(settings))}"):
        common.build("bx2s", 32, **settings)
