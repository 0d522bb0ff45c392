"""Every shipped config trains: shrunk to 16^3 and a few channels, two steps of each stage it needs."""

import json
from pathlib import Path

import pytest

from configs import paper, published, quickstart
from dvg_jax.config import PUBLISHED, STAGES, check, load
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.errors import UserError
from dvg_jax.training.run import train
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
    del fields["projector"], fields["sampler"]["eta"], fields["sampler"]["name"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert load(tmp_path / "config.json").to_dict() == config.to_dict()


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
def test_every_switch_trains_and_leaves_out_what_it_does_not_need(quick_compilation, tmp_path, switches):
    config = tiny()
    config.update(switches)
    for name in STAGES:
        config[name].train.steps = 2
    train(config, tmp_path)
    made = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert made == set(required_stages(config))
    assert all((Path(tmp_path) / name / "model").is_dir() for name in made)
