"""Comparison methods by the project's commands: the shipped configs, one working folder, one table."""

import csv

import pytest

from configs import baselines as shipped
from configs import paper, quickstart
from dvg_jax.baselines import build_baseline
from dvg_jax.build import build_dvg, required_stages
from dvg_jax.config import BASELINES, STAGES, check, save
from dvg_jax.errors import UserError
from dvg_jax.evaluation import evaluate
from dvg_jax.training.run import check_owner, train
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


def tiny_config(method):
    config = tiny()
    config.stage = method
    for name in BASELINES:
        config.baselines[name].train.update({"steps": 2, "batch_size": 2})
    for name, settings in SMALL.items():
        config.baselines[name].update(settings)
    return config


SMALL = {"cnn2d": {"width": 1 / 32, "blocks": (1, 1, 1, 1, 1)}}


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
    with (workdir / "evaluation" / "volumes.csv").open() as file:
        found = {row["method"] for row in csv.DictReader(file)}
    assert found == {"mean training volume", "2DCNN"}
    assert all(name in table for name in found)


def test_a_pipeline_that_is_there_in_part_is_named(workdir, tmp_path):
    (tmp_path / "cnn2d").symlink_to(workdir / "cnn2d")
    (tmp_path / "view_vqgan").symlink_to(workdir / "cnn2d")
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
