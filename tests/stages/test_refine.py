"""Stage ``refine`` corrects CTs by their films; tests of what it sees, learns from and says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import dvg as method
from dvg_jax.alignment import Alignment
from dvg_jax.config import check, save
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.config.table import example_settings
from dvg_jax.data.phantom import chest
from dvg_jax.dvg import DVG, Estimates
from dvg_jax.errors import UserError
from dvg_jax.refinement import GAIN
from dvg_jax.stages import build_stage
from dvg_jax.stages.refine import RefineWeights, _warn_of_identity, init_rounds, rounds_loss
from dvg_jax.training.checkpoint import save_model
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update
from dvg_jax.training.workdir import check_owner, has_refiner
from dvg_jax.xray.views import ViewSets
from tests.tiny import get_config

TINY = {"widths": (8, 8), "num_groups": 4}


def config_of(**fields):
    config = get_config()
    config.consistency.mode = "refine"
    config.refine.network.update(TINY)
    config.update(fields)
    return config


@pytest.fixture(scope="module")
def cts():
    draw = jax.jit(chest, static_argnums=1)
    return jnp.stack([draw(jax.random.key(i), 16) for i in (0, 1)])[..., None]


@pytest.fixture(scope="module")
def dvg():
    return build_dvg(config_of())


@pytest.fixture(scope="module")
def example(dvg, cts):
    """Return CTs of which one is half another chest and the other not dense enough."""
    return {"ct": cts, "starts": jnp.stack([(cts + cts[::-1]) / 2, 0.7 * cts], 1)}


def test_it_comes_last_and_only_where_it_is_asked_for():
    assert required_stages(config_of())[-1] == "refine"
    assert "refine" not in required_stages(get_config())
    config = config_of(use_diffusion=False)
    assert build_stage("refine", config, build_dvg(config)).requires == ("ct_vqgan", "view_vqgan", "new_view")


@pytest.mark.parametrize(("field", "value"), [("widths", (8, 6)), ("widths", (8,) * 5), ("num_groups", 3)])
def test_networks_that_do_not_fit_are_refused(field, value):
    config = config_of()
    config.refine.network[field] = value
    with pytest.raises(UserError, match=r"config\.refine\.network\.widths"):
        check(config)


def test_settings_are_fixed_once_it_is_there(tmp_path):
    save(get_config(), tmp_path / "config.json")
    check_owner(config_of(), tmp_path)
    (tmp_path / "refine" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"config\.refine\.network\.num_groups is 4"):
        check_owner(config_of(), tmp_path)


def test_one_of_other_stages_is_left_out_where_it_is_not_asked_for(tmp_path, capsys):
    """Results without it need not wait for it to be trained again."""
    config = get_config()
    assert not has_refiner(config, tmp_path)
    nothing = {"params": np.zeros(1)}
    save_model(tmp_path / "diffusion" / "model", nothing, {"fingerprint": "old"})
    save_model(tmp_path / "refine" / "model", nothing, {"steps": 1, "from": {"diffusion": "old"}})
    assert has_refiner(config, tmp_path)
    assert capsys.readouterr().err == ""
    save_model(tmp_path / "diffusion" / "model", nothing, {"fingerprint": "new"})
    assert not has_refiner(config, tmp_path)
    assert "left out" in capsys.readouterr().err


def test_clipping_of_samples_changes_its_examples():
    """A sampler may change in a folder; its range counts in the results that the refiner learns from."""
    clipped, fewer = get_config(), get_config()
    clipped.sampler.clip, fewer.sampler.steps = 1.0, 3
    assert example_settings(clipped) != example_settings(get_config()) == example_settings(fewer)


def test_features_say_where_a_ct_misses_its_films(dvg, cts):
    films = dvg.render(cts, dvg.angles)
    agrees = dvg.refinement.features(cts, 3 * films + 1, dvg.angles)
    assert agrees.shape == (2, 16, 16, 16, 6)  # the CT, two films, two residuals, rays
    np.testing.assert_array_equal(agrees[..., :1], cts)
    np.testing.assert_allclose(agrees[..., 3:5], 0, atol=GAIN * 1e-5)
    np.testing.assert_array_equal(agrees[..., 5], 1)  # the whole volume is covered
    misses = dvg.refinement.features(cts.at[0, 8, 8, 8].add(1.0), films, dvg.angles)
    # The voxel is too dense: on its own rays the residual is most negative.
    for channel in (3, 4):
        assert np.unravel_index(np.argmin(misses[0, ..., channel]), (16,) * 3)[0] in (7, 8)
        assert float(misses[0, 8, 8, 8, channel]) < -0.1
        np.testing.assert_allclose(misses[1, ..., channel], 0, atol=GAIN * 1e-5)


def test_training_reduces_the_error_and_a_start_is_drawn_by_the_key(dvg, example):
    stage = build_stage("refine", config_of(), dvg)
    settings = config_of().refine.train
    step = Step(stage.task, Training(**settings).recipe)
    state, fixed = create(step, jax.random.key(0), example), Fixed({}, {}, jax.random.key(1))
    before, after = [], []
    for _ in range(60):
        state, metrics = update(step, state, fixed, example, jnp.float32(3e-3))
        before.append(float(metrics["before"]))
        after.append(float(metrics["after"]))
    assert np.mean(after[-10:]) < 0.8 * np.mean(before[-10:])
    assert len({round(value, 6) for value in before}) > 2


def test_the_mean_of_a_sample_and_of_dvg_nets_ct_is_corrected_in_training_and_after(dvg, cts, monkeypatch):
    sampled, first = 0.9 * cts, 0.7 * cts
    monkeypatch.setattr(DVG, "estimates", lambda *_: Estimates(sampled, first))
    starts = build_stage("refine", config_of(), dvg).prepare({}, cts, jax.random.key(0))["starts"]
    np.testing.assert_allclose(starts, jnp.stack([0.8 * cts, first], 1), atol=1e-6)
    films = dvg.render(cts, dvg.angles)
    params = init_rounds(dvg, jax.random.key(0), cts, dvg.angles)
    variables = {"refine": {"params": params}}
    expected, one = (dvg.agree(variables, Estimates(ct), films, dvg.angles) for ct in (0.8 * cts, sampled))
    found = dvg.reconstruct(variables, films, dvg.angles, jax.random.key(0))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(one - expected).max() > 0.01


def test_films_are_aligned_by_a_ct_of_few_steps(dvg, cts, monkeypatch):
    """A hundred steps for the alignment would double the time of a reconstruction."""
    steps = []
    monkeypatch.setattr(DVG, "estimates", lambda self, *_: steps.append(self.sampler.steps) or Estimates(cts))
    # The stand-in puts the model's CT, and that CT made to agree with films, where a placement and a likeness belong.
    monkeypatch.setattr(
        method,
        "align",
        lambda films, angles, geometry, model, fit: Alignment(films, model(films), fit(model(films), films), None),
    )
    films = dvg.render(cts, dvg.angles) ** 2
    found = replace(dvg, consistency="none").align({}, films, dvg.angles, jax.random.key(0))
    np.testing.assert_array_equal(found.placement, cts)
    np.testing.assert_array_equal(found.likeness, dvg.fitted(cts, films, dvg.angles))
    assert steps == [method.ALIGNMENT_STEPS] * 2
    assert dvg.quick(1000).sampler.steps == dvg.schedule.timesteps


def test_identity_is_said(dvg, example, capsys):
    task = build_stage("refine", config_of(), dvg).task
    params = init_rounds(dvg, jax.random.key(0), example["ct"], dvg.angles)
    silent = jax.tree.map(jnp.zeros_like, params)
    _warn_of_identity(task, silent, iter([example]))
    assert "changes nothing" in capsys.readouterr().err
    perfect = {**example, "starts": jnp.stack([example["ct"] + 0.1] * 2, 1)}
    silent["round_0"]["conv_last"]["bias"] -= 1.0  # a tenth of it is the change
    _warn_of_identity(task, silent, iter([perfect]))
    assert capsys.readouterr().err == ""


def test_every_round_but_the_last_counts_half(cts):
    rounds = [cts + 0.1, cts + 0.2]
    loss, metrics = rounds_loss(rounds, cts, RefineWeights(l1=0.5), {}, jax.random.key(0))
    assert float(loss) == pytest.approx((0.01 + 2 * 0.04) / 2 + 0.5 * 0.2, rel=1e-4)
    assert float(metrics["after"]) == pytest.approx(0.04, rel=1e-4)


def test_any_views_share_one_feature(cts):
    config = config_of(random_views=3, new_angles=())
    dvg = build_dvg(config)
    sets = ViewSets(jnp.array([[0.0, 90.0, 0.0], [0.0, 45.0, 90.0]]), jnp.array([[0.5, 0.5, 0.0], [1 / 3] * 3]))
    films = dvg.render(cts, sets)
    features = dvg.refinement.features(cts, films, sets)
    assert features.shape == (2, 16, 16, 16, 4)
    assert dvg.refinement.features(cts, films[:, :2], (0.0, 90.0)).shape == features.shape
    np.testing.assert_allclose(features[..., 2], 0, atol=GAIN * 1e-5)
