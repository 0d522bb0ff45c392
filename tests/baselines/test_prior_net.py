"""3DPriorNet: layers, spectral norm, loss terms, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.baselines.layers import upsample_linear
from dvg_jax.baselines.prior_net import (
    PriorNet,
    PriorTask,
    SpectralConv,
    bone_probability,
    compose,
    cross_entropy,
)
from dvg_jax.errors import UserError
from tests.baselines import common

TINY = {"width": 1 / 12, "norm": "group"}


def volume_like(size):
    return jax.ShapeDtypeStruct((1, size, size, size, 1), jnp.float32)


def test_parameters_and_output_at_paper_scale():
    assert common.output_like(PriorNet(), volume_like(128)) == (111_012_579, (1, 128, 128, 128, 3))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_output_of_small_ones(norm):
    assert common.output_like(PriorNet(0.25, norm), volume_like(32))[1] == (1, 32, 32, 32, 3)


def soft_chest(size):
    """A chest of half the resolution: the network's last map has half the size, and the rest is interpolated."""
    half = common.chest(size).reshape(1, size // 2, 2, size // 2, 2, size // 2, 2, 1).mean(axis=(2, 4, 6))
    return upsample_linear(half)


@pytest.fixture(scope="module")
def trial():
    return common.Trial("prior_net", 16, views=2, rate=5e-3, ct=soft_chest(16), **TINY)


def squared_error(trial, state):
    return np.mean((trial.predict(state) - np.asarray(trial.ct)) ** 2)


def test_overfits_one_pair(trial):
    state, _ = trial.train(300)
    assert trial.predict(state).shape == (1, 16, 16, 16, 1)
    assert squared_error(trial, state) < squared_error(trial, trial.start) / 20


def test_deterministic(trial):
    trial.assert_deterministic()


@pytest.mark.slow
def test_overfits_one_pair_at_32():
    trial = common.Trial("prior_net", 32, rate=5e-3, ct=soft_chest(32), width=1 / 12)
    state, _ = trial.train(300)
    assert squared_error(trial, state) < squared_error(trial, trial.start) / 20


def test_all_terms_are_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("prior_net", 8, loss="full", **TINY)


def test_spectral_norm_goes_to_one():
    layer, x = SpectralConv(6), jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 3))
    variables = layer.init(jax.random.key(1), x, train=False)
    step = jax.jit(lambda v: layer.apply(v, x, train=True, mutable=["batch_stats"])[1])
    for _ in range(100):
        variables = {**variables, **step(variables)}
    kernel = variables["params"]["kernel"]
    largest = np.linalg.norm(np.asarray(kernel).reshape(-1, 6), ord=2)
    bare = {"params": {"kernel": kernel / largest, "bias": variables["params"]["bias"]}}
    plain = jax.lax.conv_general_dilated(
        x, bare["params"]["kernel"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x, train=False), plain + bare["params"]["bias"], atol=1e-4)


def test_composition_and_bone_by_hand():
    materials = jnp.asarray([0.25, 0.8, 0.4]).reshape(1, 1, 1, 1, 3)
    assert float(compose(materials)[0, 0, 0, 0, 0]) == pytest.approx(0.25 * 0.8 + 0.75 * 0.4)
    levels = jnp.asarray([1100, 1200, 1600, 1800, 2000, 2400]) / 2500
    np.testing.assert_allclose(
        bone_probability(levels.reshape(1, 1, 1, -1, 1)).ravel(), [0, 0, 0.5, 0.75, 1, 1], atol=1e-6
    )
    assert float(cross_entropy(jnp.float32(0.25), jnp.float32(1.0))) == pytest.approx(np.log(4), rel=1e-5)


def test_projection_term_sees_errors_that_voxels_have():
    _, dvg = common.build("prior_net", 16)
    task = PriorTask(PriorNet(), dvg.geometry, "full")
    truth = common.chest(16)
    distance = jax.jit(task._projection_distance)
    # The covering detector sees more than the volume: rays that miss it count as 0, so the mean ray is below 0.1.
    assert 0.02 < float(distance(truth + 0.1, truth, jax.random.key(0))) < 0.1
    assert float(distance(truth, truth, jax.random.key(0))) == 0


@pytest.mark.parametrize("settings", [{"loss": "l2"}, {"norm": "layer"}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(UserError, match=f"prior_net.{next(iter(settings))}"):
        common.build("prior_net", 32, **settings)
