"""The critics' losses by hand; the networks are compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks.discriminator import feature_distance, hinge_loss, vanilla_loss


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
