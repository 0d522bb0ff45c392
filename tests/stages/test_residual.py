"""g_theta of the residual: its target, its samples, and what it is trained with."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.config import check
from dvg_jax.config.build import build_dvg
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.networks.denoiser import ConditionalDenoiser
from dvg_jax.stages import build_stage, latent
from dvg_jax.stages.latent import DiffusionTask
from tests.tiny import get_config


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Leave the network out: it has no weights, and predicts zeros."""
    monkeypatch.setattr(latent, "init_variables", lambda *_: {"params": {}})
    monkeypatch.setattr(ConditionalDenoiser, "predict", lambda self, arguments, z, t: jnp.zeros_like(z))


@pytest.fixture(scope="module")
def config():
    made = get_config()
    made.diffusion.target = "residual"
    return made


@pytest.fixture(scope="module")
def example():
    """Return latents whose residual has another mean square in each channel."""
    random = np.random.default_rng(0)
    first, condition = (jnp.asarray(random.normal(size=(2, 4, 4, 4, 8)), jnp.float32) for _ in range(2))
    residual = jnp.asarray(random.normal(size=first.shape) * np.arange(1, 9) / 10, jnp.float32)
    return {"z0": first + residual, "condition_0": condition, "condition_1": condition, "condition_2": first}


def test_the_target_is_what_the_first_latent_lacks_at_scale_one(config, example):
    task = DiffusionTask(build_dvg(config))
    params, state = task.init(jax.random.key(0), example)
    condition = tuple(example[f"condition_{i}"] for i in range(3))
    target = task.dvg.target(state, condition, example["z0"])
    np.testing.assert_allclose(target.std((0, 1, 2, 3)), 1, rtol=1e-5)
    loss, (after, _) = task.loss(params, state, {}, example, jax.random.key(1), jnp.zeros((), jnp.int32))
    np.testing.assert_allclose(loss, np.mean(target**2), rtol=1e-5)
    assert after is state
    exported = build_stage("diffusion", config, task.dvg).export(params["model"], state, iter(()))
    np.testing.assert_array_equal(exported["statistics"]["std"], state["statistics"]["std"])


def test_a_sample_is_the_first_latent_and_what_the_network_says_that_it_lacks(config, example, monkeypatch):
    dvg = replace(build_dvg(config), sampler=replace(build_dvg(config).sampler, steps=1))
    condition = tuple(example[f"condition_{i}"] for i in range(3))
    _, state = DiffusionTask(dvg).init(jax.random.key(0), example)
    truth = dvg.target(state, condition, example["z0"])
    monkeypatch.setattr(ConditionalDenoiser, "predict", lambda self, arguments, z, t: truth)
    decoded = []

    def decode(self, variables, z):
        decoded.append(z)
        return jnp.zeros((2, 16, 16, 16, 1))

    monkeypatch.setattr(DVG, "decode", decode)
    dvg.sample({"diffusion": state}, {"unet": {}}, condition, jax.random.key(0))
    np.testing.assert_allclose(decoded[0], example["z0"], atol=1e-5)


@pytest.mark.parametrize("switch", [{"new_angles": ()}, {"use_vpge": False}])
def test_it_needs_dvg_net_and_its_encoder(config, switch):
    config = config.copy_and_resolve_references()
    config.update(switch)
    with pytest.raises(UserError, match=r"config\.diffusion\.target is residual"):
        check(config)


def test_the_papers_target_has_no_statistics(example):
    task = DiffusionTask(build_dvg(get_config()))
    _, state = task.init(jax.random.key(0), example)
    assert state == {}
    assert task.dvg.target(state, (), example["z0"]) is example["z0"]
