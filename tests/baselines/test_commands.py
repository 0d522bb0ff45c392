"""Comparison methods by the project's commands: the shipped configs, one working folder, one table."""

import csv

import jax
import numpy as np
import pytest

from configs import baselines as shipped
from configs import paper, quickstart
from dvg_jax.baselines import Baseline, build_baseline
from dvg_jax.config import BASELINES, STAGES, check, save
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.errors import UserError
from dvg_jax.evaluate.run import evaluate
from dvg_jax.methods import baseline_method
from dvg_jax.methods.yardsticks import YARDSTICKS
from dvg_jax.training.run import train
from dvg_jax.training.workdir import check_owner
from tests.baselines.common import chest
from tests.tiny import get_config as tiny


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("rest", ["single", "biplanar", "biplanar,tiny"])
def test_shipped_configs_build(method, rest):
    config = shipped.get_config(f"{method},{rest}")
    check(config)
    assert config.stage == method
    assert build_baseline(method, config, build_dvg(config)).name == method


@pytest.mark.parametrize("argument", ["", "cnn3d,single", "cnn2d,single,small", "cnn2d,single,tiny,tiny", "cnn2d,mono"])
def test_unknown_arguments(argument):
    with pytest.raises(UserError, match="allowed"):
        shipped.get_config(argument)


def test_tiny_and_paper_configs_share_folders_with_the_pipeline(tmp_path):
    """A baseline's config is the pipeline's, but for the stage."""
    for argument, module in (("cnn2d,single", paper), ("cnn2d,single,tiny", quickstart)):
        save(shipped.get_config(argument), tmp_path / "config.json")
        check_owner(module.get_config("single"), tmp_path)


def test_settings_of_a_method_are_fixed_once_it_is_there(tmp_path):
    config = tiny_config("cnn2d")
    save(config, tmp_path / "config.json")
    config.baselines.cnn2d.width = 0.5
    check_owner(config, tmp_path)
    (tmp_path / "cnn2d" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"config\.baselines\.cnn2d\.width is 0\.5"):
        check_owner(config, tmp_path)


def tiny_config(method):
    config = tiny()
    config.stage = method
    for name in BASELINES:
        config.baselines[name].train.update({"steps": 2, "batch_size": 2})
    for name, settings in SMALL.items():
        config.baselines[name].update(settings)
    return config


SMALL = {"reconnet": {"width": 1 / 128}, "residual_unet": {"width": 1 / 8}}
"""One method of each kind: of volumes, of views."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Every method of SMALL, trained for two steps; none of the pipeline's stages."""
    folder = tmp_path_factory.mktemp("baselines")
    for name in SMALL:
        train(tiny_config(name), folder)
    return folder


def test_all_trained_methods_are_measured(workdir):
    config = tiny_config("all")
    table = evaluate(config, workdir, show_progress=False)
    made = (*YARDSTICKS, "ReconNet")
    assert methods(workdir / "evaluation" / "volumes.csv") == {*made, *(f"{title} + consistency" for title in made)}
    assert methods(workdir / "evaluation" / "views.csv") == {"UNet, view at 45 degrees"}
    assert "| ReconNet " in table


def methods(path):
    with path.open() as file:
        return {row["method"] for row in csv.DictReader(file)}


def test_projections_of_a_volume_stand_in_the_table_of_views(unchecked):
    """Those that the paper's Table VI has."""
    config = tiny_config("all")
    dvg, ct = build_dvg(config), chest(16)
    half = Baseline("half", "Half", None, None, lambda v, views, key: 0.5 * ct, in_view_table=True)
    other = Baseline("other", "Other", None, None, lambda v, views, key: 0.5 * ct)
    views, key = dvg.render(ct, dvg.angles), jax.random.key(0)
    shown, hidden = (baseline_method(b, dvg).predict({}, views, key) for b in (half, other))
    np.testing.assert_array_equal(shown.ct, hidden.ct)
    assert hidden.views is None
    np.testing.assert_allclose(shown.views, dvg.render(ct, (45.0,)), atol=1e-5)


def test_a_pipeline_that_is_there_in_part_is_named(workdir, tmp_path):
    (tmp_path / "reconnet").symlink_to(workdir / "reconnet")
    (tmp_path / "view_vqgan").symlink_to(workdir / "reconnet")
    with pytest.raises(UserError, match="needs stage ct_vqgan"):
        evaluate(tiny_config("all"), tmp_path, show_progress=False)


def test_all_means_the_pipeline_alone():
    config = tiny_config("all")
    assert not set(required_stages(config)) & set(BASELINES)
    assert set(config.init) == {*STAGES, *BASELINES}


def test_wrong_settings_are_named_by_their_field():
    config = tiny_config("cnn2d")
    config.baselines.cnn2d.train.schedule = "sine"
    with pytest.raises(UserError, match=r"config\.baselines\.cnn2d\.train\.schedule is 'sine'"):
        check(config)
