"""2DCNN: layers, learning, axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.baselines.cnn2d import CNN2D, DepthwiseUp
from dvg_jax.errors import UserError
from tests.baselines import common

TINY = {"width": 1 / 32, "blocks": (1, 1, 1, 1, 1)}
BIPLANAR = (0.0, 90.0)


@pytest.mark.parametrize(("angles", "expected"), [((0.0,), 9_068_480), (BIPLANAR, 9_071_616)])
def test_parameters_and_output_at_paper_scale(angles, expected):
    views = common.views_like(len(angles), common.PAPER_SIZE)
    assert common.output_like(CNN2D(angles), views) == (expected, (1, 128, 128, 128, 1))


@pytest.mark.parametrize("angles", [(0.0,), BIPLANAR])
@pytest.mark.parametrize("fusion", ["early", "late"])
def test_output_of_small_ones(angles, fusion):
    network = CNN2D(angles, width=0.25, fusion=fusion, blocks=TINY["blocks"])
    assert common.output_like(network, common.views_like(len(angles), 32))[1] == (1, 32, 32, 32, 1)


@pytest.fixture(scope="module")
def trial():
    return common.Trial("cnn2d", 16, **TINY)


@pytest.mark.slow
def test_overfits_one_pair(trial):
    state, losses = trial.train(300)
    assert losses[-1] < losses[0] / 20
    assert trial.predict(state).shape == (1, 16, 16, 16, 1)


@pytest.mark.slow
def test_overfits_one_pair_at_full_depth():
    _, losses = common.Trial("cnn2d", 32, width=1 / 32).train(300)
    assert losses[-1] < losses[0] / 20


@pytest.mark.slow
def test_deterministic(trial):
    trial.assert_deterministic()


def test_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("cnn2d", 16, views=2, **TINY)


@pytest.mark.parametrize("at", [(20, 10, 24), (9, 22, 12)])
def test_depth_of_each_view_is_its_ray(at, monkeypatch):
    """With its network replaced by one that repeats the image over all depths, each view's volume holds its lines."""
    _, dvg = common.build("cnn2d", 32, views=2, fusion="late")

    def repeat(self, image, train):
        return jnp.broadcast_to(image, (*image.shape[:3], image.shape[1]))

    monkeypatch.setattr("dvg_jax.baselines.cnn2d.EncoderDecoder.__call__", repeat)

    def lift(views):
        return [CNN2D((a,), fusion="late").apply({}, views[:, i : i + 1]) for i, a in enumerate(BIPLANAR)]

    common.assert_lines_cross(lift, dvg, at)


def test_depthwise_upsampling_is_the_transposed_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 1, 3))
    y = DepthwiseUp().apply({"params": {"kernel": kernel}}, x)
    slow = np.zeros((2, 12, 10, 3))
    for i in range(5):
        for j in range(4):
            slow[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += x[:, i, j][:, None, None] * kernel[:, :, 0]
    np.testing.assert_allclose(y, slow[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("views", [3])
def test_views_without_axes_are_refused(views):
    with pytest.raises(UserError, match=r"angles is .* allowed for cnn2d"):
        common.build("cnn2d", 32, views=views)


def test_unknown_fusion_is_refused():
    with pytest.raises(UserError, match="fusion"):
        common.build("cnn2d", 32, fusion="middle")
