"""The 2D residual U-Net that synthesises a view."""

import jax
import numpy as np
import pytest

from dvg_jax.baselines.residual_unet import ResidualUNet
from dvg_jax.errors import UserError
from tests.baselines import common

TINY = {"width": 1 / 8}


@pytest.mark.parametrize(("views", "expected"), [(1, 8_222_529), (2, 8_223_169)])
def test_parameters_and_output_at_paper_scale(views, expected):
    found = common.output_like(ResidualUNet(), common.views_like(views, common.PAPER_SIZE))
    assert found == (expected, (1, 1, 128, 128, 1))


@pytest.mark.parametrize("views", [1, 2])
def test_output_of_small_ones(views):
    assert common.output_like(ResidualUNet(0.25), common.views_like(views, 32))[1] == (1, 1, 32, 32, 1)


@pytest.fixture(scope="module")
def trial():
    return common.Trial("residual_unet", 32, views=2, **TINY)


@pytest.mark.slow
def test_overfits_one_pair(trial):
    state, losses = trial.train(300)
    assert losses[-1] < losses[0] / 20
    assert trial.predict(state).shape == (1, 1, 32, 32, 1)


@pytest.mark.slow
def test_deterministic(trial):
    trial.assert_deterministic()


def test_the_target_is_the_new_view():
    baseline, dvg = common.build("residual_unet", 16, views=2, **TINY)
    ct = common.chest(16)
    np.testing.assert_array_equal(baseline.prepare({}, ct, jax.random.key(0))["y"], dvg.render(ct, (45.0,)))
    assert baseline.makes_views


def test_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("residual_unet", 16, **TINY)


def test_no_new_angle_is_refused():
    with pytest.raises(UserError, match="new_angles"):
        common.build("residual_unet", 32, views=3)
