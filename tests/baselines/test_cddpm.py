"""CDDPM in pixel space, and that its latent form is the pipeline's own switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.baselines import build_baseline
from dvg_jax.baselines.cddpm import VolumeUNet
from dvg_jax.config.build import build_dvg
from dvg_jax.errors import UserError
from dvg_jax.stages.latent import DiffusionTask
from dvg_jax.training.workdir import load_stages
from tests.baselines import common
from tests.tiny import get_config

NETWORK = {"dim": 8, "dim_mults": (1, 2), "heads": 1, "head_dim": 8, "attention_size": 4, "remat": False}


def shapes(size):
    return (
        jax.ShapeDtypeStruct((1, size, size, size, 2), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )


def test_parameters_and_output_at_paper_scale():
    assert common.output_like(VolumeUNet(), *shapes(128)) == (23_334_337, (1, 128, 128, 128, 1))


def test_voxels_attend_where_there_are_few_alone():
    variables = common.variables_like(VolumeUNet(8, (1, 2, 4), attention_size=16), *shapes(32))
    attending = {name.removesuffix("_attention") for name in variables["params"] if "attention" in name}
    assert attending == {"downs_1", "downs_2", "mid", "ups_0", "ups_1"}


@pytest.fixture(scope="module")
def trial():
    return common.Trial("cddpm", 8, views=2, rate=3e-3, network={**NETWORK, "dim_mults": (1,), "attention_size": 8})


def test_overfits_one_pair(trial):
    state, losses = trial.train(300)
    assert losses[-30:].mean() < losses[:3].mean() / 20
    result = trial.predict(state)
    assert result.shape == (1, 8, 8, 8, 1)
    # Sampling from noise finds the CT it was taught.
    assert np.mean((result - np.asarray(trial.ct)) ** 2) < 0.2 * np.var(trial.ct)


def test_deterministic(trial):
    trial.assert_deterministic()
    assert not np.array_equal(trial.predict(trial.start, key=0), trial.predict(trial.start, key=1))


def test_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("cddpm", 8, network=NETWORK)


@pytest.mark.slow
def test_overfits_one_pair_at_32():
    network = {**NETWORK, "dim_mults": (1, 2, 4)}
    _, losses = common.Trial("cddpm", 32, rate=2e-3, network=network).train(300)
    assert losses[-30:].mean() < losses[:3].mean() / 20


@pytest.mark.parametrize("views", [1, 2])
def test_latent_form_is_base_diffusion(views):
    config = common.config_of("cddpm", 32, views, space="latent")
    baseline = build_baseline("cddpm", config, build_dvg(config))
    config.use_vpge, config.new_angles = False, ()
    assert baseline.task == DiffusionTask(build_dvg(config))
    assert baseline.requires == ("ct_vqgan",)


def test_unknown_space_is_refused():
    with pytest.raises(UserError, match=r"cddpm\.space"):
        common.build("cddpm", 32, space="image")


@pytest.mark.parametrize("space", ["pixel", "latent"])
def test_newview_diffusion_sees_what_dvg_net_synthesises(space, trained):
    """Its condition is V_bp of the input views and of the synthesised one; no view encoder comes between."""
    config = get_config()
    config.baselines.cddpm.update({"space": space, "new_view": True})
    config.baselines.cddpm.network.update({**NETWORK, "dim_mults": (1,)})
    dvg = build_dvg(config)
    baseline = build_baseline("cddpm", config, dvg)
    assert baseline.title == "NewView-Diffusion"
    assert set(baseline.requires) == {"ct_vqgan", "view_vqgan", "new_view"}
    frozen = load_stages(config, trained, baseline.requires, wanted_by="a test")
    ct = common.chest(16)
    views = dvg.render(ct, dvg.angles)
    new = dvg.synthesize_view(frozen, dvg.view_latent(frozen, views, dvg.angles)).views
    expected = [dvg.lift(views, dvg.angles), dvg.lift(new, dvg.new_angles)]
    example = baseline.prepare(frozen, ct, jax.random.key(0))
    blocks = [example["x"][..., i : i + 1] for i in (0, 1)] if space == "pixel" else [
        example["condition_0"], example["condition_1"],
    ]  # fmt: skip
    for block, value in zip(blocks, expected, strict=True):
        np.testing.assert_allclose(block, value, atol=1e-5)


def test_newview_diffusion_needs_a_new_view():
    config = common.config_of("cddpm", 32, 2, new_view=True)
    config.new_angles = ()
    with pytest.raises(UserError, match="new_angles is empty"):
        build_baseline("cddpm", config, build_dvg(config))
