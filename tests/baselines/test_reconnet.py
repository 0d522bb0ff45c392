"""ReconNet: layers, learning, its input's statistics."""

import jax
import numpy as np
import pytest

from dvg_jax.baselines.layers import Standardize
from dvg_jax.baselines.reconnet import ReconNet
from dvg_jax.errors import UserError
from tests.baselines import common

TINY = {"width": 1 / 128}


@pytest.mark.parametrize(("views", "expected"), [(1, 588_591_424), (20, 588_669_248)])
def test_parameters_and_output_at_paper_scale(views, expected):
    found = common.output_like(ReconNet(), common.views_like(views, common.PAPER_SIZE))
    assert found == (expected, (1, 128, 128, 128, 1))


@pytest.mark.parametrize("views", [1, 2, 3, 5, 10, 20])
def test_output_of_small_ones(views):
    assert common.output_like(ReconNet(1 / 16), common.views_like(views, 32))[1] == (1, 32, 32, 32, 1)


def test_start_at_depth_four_needs_no_last_convolution():
    views = common.views_like(1, 32)
    variables = common.variables_like(ReconNet(1 / 16, start_depth=4), views)
    assert "slices" not in variables["params"]
    assert common.output_like(ReconNet(1 / 16, start_depth=4), views)[1] == (1, 32, 32, 32, 1)


@pytest.fixture(scope="module")
def trial():
    return common.Trial("reconnet", 16, views=3, **TINY)


def test_overfits_one_pair(trial):
    state, losses = trial.train(300)
    assert losses[-1] < losses[0] / 20
    assert trial.predict(state).shape == (1, 16, 16, 16, 1)


def test_deterministic(trial):
    trial.assert_deterministic()


@pytest.mark.slow
def test_overfits_one_pair_at_32():
    _, losses = common.Trial("reconnet", 32, width=1 / 32, rate=1e-3).train(300)
    assert losses[-1] < losses[0] / 20


def test_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("reconnet", 8, **TINY)


def test_input_statistics_are_those_of_all_inputs_so_far():
    batches = np.random.default_rng(0).normal(3, 2, (4, 2, 5, 5, 3)).astype(np.float32)
    layer = Standardize()
    variables = layer.init(jax.random.key(0), batches[0], train=False)
    for batch in batches:
        y, variables = layer.apply(variables, batch, train=True, mutable=["batch_stats"])
    flat = batches.reshape(-1, 3)
    expected = (batches[-1] - flat.mean(0)) / flat.std(0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.apply(variables, batches[-1], train=False), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{"loss": "huber"}, {"start_depth": 3}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(UserError, match=f"reconnet.{next(iter(settings))}"):
        common.build("reconnet", 32, **settings)


def test_more_than_twenty_views_are_refused():
    with pytest.raises(UserError, match="21 views"):
        common.build("reconnet", 32, views=21)
    assert len(common.build("reconnet", 32, views=20)[1].angles) == 20
