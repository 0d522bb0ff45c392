"""Patch critics equal the published ones, running statistics included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import torch_import
from dvg_jax.networks.discriminator import PatchDiscriminator, feature_distance, hinge_loss, vanilla_loss
from tests.paths import GOLDEN, needs_shared


def channels_last(x):
    return np.moveaxis(x, 1, -1)


@needs_shared
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_features_and_statistics_equal_the_published(dims, mode):
    golden, tag = np.load(GOLDEN / "discriminators.npz"), f"{dims}d"
    state = {k.removeprefix(f"{tag}/sd/"): golden[k] for k in golden.files if k.startswith(f"{tag}/sd/")}
    critic, variables = torch_import.patch_discriminator(state, dims)
    x = jnp.asarray(channels_last(golden[f"{tag}/x"]))
    (logits, features), changed = critic.apply(variables, x, train=mode == "train", mutable=["batch_stats"])
    np.testing.assert_allclose(logits, channels_last(golden[f"{tag}/{mode}_logits"]), rtol=1e-4, atol=1e-5)
    for i, feature in enumerate(features):
        np.testing.assert_allclose(feature, channels_last(golden[f"{tag}/{mode}_feat{i}"]), rtol=1e-4, atol=1e-5)
    if mode == "train":
        for i in (1, 2, 3):
            for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
                expected = golden[f"{tag}/after_train/model{i}.1.{theirs}"]
                np.testing.assert_allclose(changed["batch_stats"][f"norm{i}"][ours], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dims", "expected"), [(2, 2_764_481), (3, 11_049_665)])
def test_parameter_counts_at_paper_scale(dims, expected):
    shapes = jax.eval_shape(PatchDiscriminator(dims).init, jax.random.key(0), jnp.zeros((1, *(16,) * dims, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected


def test_losses_by_hand():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.5])
    assert float(hinge_loss(real, fake)) == pytest.approx(0.5 * (0.25 + 0.75))
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    by_hand = 0.5 * (np.mean([softplus(-2.0), softplus(-0.5)]) + np.mean([softplus(-3.0), softplus(0.5)]))
    assert float(vanilla_loss(real, fake)) == pytest.approx(by_hand, rel=1e-6)


def test_feature_distance_leaves_out_the_logits_and_pulls_the_fake_alone():
    real, fake = [jnp.ones(4), jnp.full(4, 9.0)], [jnp.full(4, 3.0), jnp.zeros(4)]
    assert float(feature_distance(real, fake)) == 2.0
    to_real, to_fake = jax.grad(feature_distance, argnums=(0, 1))(real, fake)
    assert float(jnp.abs(to_real[0]).sum()) == 0
    assert float(jnp.abs(to_fake[0]).sum()) == 1
