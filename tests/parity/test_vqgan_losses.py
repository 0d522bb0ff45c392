"""The whole training loss of a VQGAN, as its stage computes it, before and after the critics join."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import torch_import
from dvg_jax.networks.discriminator import hinge_loss, vanilla_loss
from dvg_jax.stages.adversary import Weights
from dvg_jax.stages.vqgan import VQGANTask
from tests.parity.errors import relative
from tests.parity.golden import EXACT, NETWORKS, TABLES, channels_first, channels_last, load, under
from tests.paths import GOLDEN, needs_shared

FILE = "vqgan_losses.npz"
CRITICS = {"slices": ("image_discriminator", 2), "volume": ("video_discriminator", 3)}
STATISTICS = {"mean": "running_mean", "var": "running_var"}

pytestmark = needs_shared


class Published:
    """The golden file as a task, its parameters and its state."""

    def __init__(self):
        _, self.golden = load(GOLDEN, FILE)
        model = json.loads(str(self.golden["config_json"]))["model"]
        state = under(self.golden, "sd")
        network, variables = torch_import.vqgan3d(state, num_groups=model["num_groups"])
        critics = {
            name: torch_import.patch_discriminator(torch_import.subtree(state, part), dims)[1]
            for name, (part, dims) in CRITICS.items()
        }
        self.weights = Weights(
            reconstruction=model["l1_weight"],
            perceptual=model["perceptual_weight"],
            gan=model["image_gan_weight"],
            feature_matching=model["gan_feat_weight"],
            gan_start=model["discriminator_iter_start"],
            gan_kind=model["disc_loss_type"],
            disc_width=model["disc_channels"],
            disc_layers=model["disc_layers"],
            restart_threshold=0.0,
        )
        self.task = VQGANTask(network, self.weights)
        self.params = {
            "model": variables["params"],
            "critics": {name: critic["params"] for name, critic in critics.items()},
        }
        self.state = {
            "codebook": variables["codebook"],
            "critics": {name: critic["batch_stats"] for name, critic in critics.items()},
        }
        self.x = channels_last(self.golden["x"])

    @functools.cached_property
    def compiled(self):
        """The stage's loss and the volume it is of, in one program, where they share the network's pass."""
        variables = {"params": self.params["model"], "codebook": self.state["codebook"]}

        def run(x, key, step):
            loss = self.task.loss(self.params, self.state, {}, {"x": x}, key, step)
            return loss, self.task.network.apply(variables, x).volume

        return jax.jit(run)

    def loss(self, slices, step):
        """With these slices shown to the 2D critic: total, next state, what is logged."""
        (total, (state, told)), _ = self.compiled(self.x, key_that_draws(slices, self.x.shape[1]), jnp.asarray(step))
        return total, state, told


def key_that_draws(slices, depth):
    """The first key with which the loss picks ``slices``: the golden ones were drawn by another generator."""
    keys = jax.vmap(jax.random.key)(jnp.arange(4096))
    drawn = jax.vmap(lambda key: jax.random.randint(jax.random.split(key)[1], (len(slices),), 0, depth))(keys)
    return keys[int(np.flatnonzero((np.asarray(drawn) == slices).all(axis=1))[0])]


@pytest.fixture(scope="module")
def published():
    return Published()


@pytest.fixture(scope="module")
def compare(published, report):
    def compare(name, ours, tolerance=NETWORKS):
        report(file=FILE, name=name, error=relative(ours, published.golden[name]), tolerance=tolerance)

    return compare


def test_every_loss_once_the_critics_have_joined(published, compare):
    weights, start = published.weights, published.weights.gan_start
    total, _, told = published.loss(published.golden["frame_idx_gen"], start)
    # The published code runs the network again for the critics, with slices drawn anew.
    _, _, told_critics = published.loss(published.golden["frame_idx_disc"], start)
    compare("recon_loss", weights.reconstruction * told["reconstruction"])
    compare("commitment_loss", weights.commitment * told["commitment"])
    compare("perplexity", told["perplexity"])
    compare("aeloss", weights.gan * told["generator"])
    compare("gan_feat_loss", weights.feature_matching * told["feature_matching"])
    compare("discloss", told_critics["critic"])
    terms = ("recon_loss", "commitment_loss", "aeloss", "gan_feat_loss")
    expected = sum(float(published.golden[name]) for name in terms) + float(told["critic"])
    assert float(total) == pytest.approx(expected, rel=NETWORKS)


def test_before_that_the_critics_add_nothing(published, compare):
    total, _, told = published.loss(published.golden["frame_idx_gen"], published.weights.gan_start - 1)
    autoencoder = (
        published.weights.reconstruction * told["reconstruction"] + published.weights.commitment * told["commitment"]
    )
    # The critics' three terms reach the total as one, which must be 0 as each of the published is.
    for name in ("aeloss_before_start", "gan_feat_before_start", "discloss_before_start"):
        compare(name, total - autoencoder, EXACT)


def test_codebook_and_running_statistics_after_the_step(published, compare):
    _, state, _ = published.loss(published.golden["frame_idx_gen"], published.weights.gan_start)
    for name, array in state["codebook"].items():
        compare(f"after_gen_step/codebook.{name}", array)
    for critic, (part, _) in CRITICS.items():
        for norm, found in state["critics"][critic].items():
            for ours, theirs in STATISTICS.items():
                number = norm.removeprefix("norm")
                compare(f"after_gen_step/{part}.model{number}.1.{theirs}", found[ours])


def test_reconstruction(published, compare):
    _, volume = published.compiled(published.x, jax.random.key(0), jnp.asarray(0))
    compare("x_recon", channels_first(volume))


def test_critic_losses_of_given_logits(published, compare):
    logits = [jnp.asarray(published.golden[name]) for name in ("logits_real", "logits_fake")]
    compare("hinge", hinge_loss(*logits), TABLES)
    compare("vanilla", vanilla_loss(*logits), TABLES)
