"""Every shipped config trains: shrunk to 16^3 and a few channels, two steps of each stage it needs."""

import json
from pathlib import Path

import pytest

from configs import paper, published, quickstart
from dvg_jax.config import PAPER_STAGES, PUBLISHED, check, default_config
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.config.scales import demo
from dvg_jax.config.table import is_free, rules
from dvg_jax.errors import UserError
from dvg_jax.stages import build_stage
from dvg_jax.training.run import train
from dvg_jax.training.workdir import load_config
from tests.tiny import get_config as tiny

ARGUMENTS = [
    (quickstart, "single"),
    (quickstart, "biplanar"),
    (paper, "single"),
    (paper, "biplanar"),
    (paper, "views=3"),
]


@pytest.mark.parametrize(("module", "argument"), ARGUMENTS)
def test_shipped_configs_build(module, argument):
    config = module.get_config(argument)
    check(config)
    dvg = build_dvg(config)
    assert len(dvg.angles) == {"single": 1, "biplanar": 2, "views=3": 3}[argument]
    assert ("new_view" in required_stages(config)) == bool(dvg.new_angles)


def test_config_of_the_released_weights_is_the_papers_but_for_its_conventions():
    config, expected = published.get_config(), paper.get_config("biplanar")
    build_dvg(config)
    assert (config.projector, config.normalize_new_view) == ("published", False)
    expected.update_from_flattened_dict(PUBLISHED)
    assert config.to_dict() == expected.to_dict()


def test_a_field_younger_than_a_saved_config_has_its_default(tmp_path):
    config = tiny()
    config.floor = 0.1
    fields = config.to_dict()
    del fields["projector"], fields["consistency"], fields["sampler"]["name"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert load_config(tmp_path).to_dict() == config.to_dict()


def test_the_demo_trains_the_refiner_and_the_same_networks_without_dvg_in_the_same_way():
    refine, unrolled = demo().refine, demo().baselines.unrolled
    assert (refine.train.batch_size, refine.train.ema_decay, refine.train.schedule) == (1, 0.99, "cosine")
    assert unrolled.train == refine.train


def test_the_settings_that_the_quickstart_shows_are_those_of_its_preset():
    preset = demo()
    preset.evaluate.also = str(quickstart.SCANS)
    assert quickstart.get_config().to_dict() == preset.to_dict()


ENCODERS = PAPER_STAGES[:2]
NEEDED = {
    # (encoder of views, new view, diffusion)
    (True, True, True): PAPER_STAGES,
    (True, False, True): (*ENCODERS, "diffusion"),
    (False, True, True): (*ENCODERS, "new_view", "diffusion"),
    (False, False, True): ("ct_vqgan", "diffusion"),
    (True, True, False): (*ENCODERS, "new_view"),
    (True, False, False): (*ENCODERS, "new_view"),
    (False, True, False): (*ENCODERS, "new_view"),
    (False, False, False): (*ENCODERS, "new_view"),
}


@pytest.mark.parametrize(("switches", "expected"), NEEDED.items())
def test_a_stage_comes_after_all_that_it_requires(switches, expected):
    config = default_config()
    config.use_vpge, new_view, config.use_diffusion = switches
    config.new_angles = config.new_angles if new_view else ()
    assert required_stages(config) == expected
    dvg = build_dvg(config)
    for i, name in enumerate(expected):
        assert set(build_stage(name, config, dvg).requires) <= set(expected[:i])


def test_what_two_runs_in_one_folder_may_differ_in():
    free = {field for field in rules() if is_free(field)}
    sections = ("calibration.", "log.", "evaluate.", "init.", "sampler.", "consistency.")
    single = {"stage", "shard_parameters", "deterministic"}
    lengths = {field for field in rules() if field.endswith(("train.steps", "train.cache"))}
    assert free == single | lengths | {field for field in rules() if field.startswith(sections)}
    assert is_free("log.of_an_older_version")
    assert not is_free("data.of_an_older_version")
    assert not is_free("of_an_older_version")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "ancestral"),
        ({"eta": 0.0}, "ddim"),
        ({"name": "ddim"}, "ddim"),
        ({"name": "dpmpp_2m", "steps": 5}, "dpmpp_2m"),
        ({"name": "ancestral", "eta": 0.0, "clip": 1.0}, "ancestral"),
    ],
)
def test_a_name_chooses_the_sampler_and_without_one_eta_does(fields, name):
    config = tiny()
    config.sampler.update(fields)
    sampler = build_dvg(config).sampler
    assert (sampler.name, sampler.steps, sampler.clip) == (name, fields.get("steps"), fields.get("clip"))


@pytest.mark.parametrize(("module", "said"), [(quickstart, "quickstart.py:three"), (paper, "paper.py:three")])
def test_unknown_arguments(module, said):
    with pytest.raises(UserError, match=said):
        module.get_config("three")


@pytest.mark.parametrize(
    "switches",
    [
        {"angles": (0.0,), "new_angles": (90.0,)},
        pytest.param({"angles": (0.0, 45.0, 90.0), "new_angles": ()}, marks=pytest.mark.slow),
        pytest.param({"use_vpge": False, "new_angles": ()}, marks=pytest.mark.slow),
        {"use_diffusion": False},
    ],
    ids=["single", "three views", "no encoder, no new view", "DVG-Net"],
)
def test_every_switch_trains_and_leaves_out_what_it_does_not_need(tmp_path, switches):
    config = tiny()
    config.update(switches)
    for name in PAPER_STAGES:
        config[name].train.steps = 2
    train(config, tmp_path)
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert made == set(required_stages(config))
    assert all((Path(tmp_path) / name / "model").is_dir() for name in made)
