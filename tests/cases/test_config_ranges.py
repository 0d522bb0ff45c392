"""Impossible settings are refused by the field's name, before any work."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import baselines, paper, published, quickstart
from dvg_jax.cli.rules import Number, OneOf, Several, Switch, Text, Words, shown
from dvg_jax.config import BASELINES, STAGES, check, default_config
from dvg_jax.config.scales import SCALES
from dvg_jax.config.table import check_fields, rules
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError
from dvg_jax.experiments.command import configure
from dvg_jax.stages.adversary import KINDS
from dvg_jax.training.run import train
from dvg_jax.xray import ConeBeamGeometry, view_pose

NEVER = (
    *(None, math.nan, math.inf, (), {}, "no such word", b"", ("a",), ((0, 90),), -(10**9), 10**12 + 0.5),
    *(10**12, -(10**400), 10**400, 10**5000, 1.7e308, "x" * 5000, (1,) * 1000, (0.0,) * 10**4, [[[[]]]]),
)
"""These values are tried on every field. A rule allows two at most: a folder may have any name, a tuple be empty."""


def fields(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in config.items():
        flat |= fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat


def wrong(rule) -> list[object]:
    """Return values that a rule just does not allow."""
    if isinstance(rule, Several):
        entries = [(value,) * (rule.count or max(rule.least, 1)) for value in wrong(rule.rule)]
        return [*entries, 5, None] + ([()] if rule.least or rule.count else [])
    if isinstance(rule, Number):
        below = [rule.low if rule.open_low else rule.low - 1]
        above = [] if rule.high == math.inf else [rule.high if rule.open_high else rule.high + 1]
        return [*below, *above, *([1.5] if rule.whole else []), math.nan, math.inf, None, "1"]
    return {
        OneOf: ["nonsense", None, -1],
        Switch: [None, 1, "true"],
        Text: [None, 5, ()],
        Words: [(), ("nonsense",), "hu", None, (5,)],
    }[type(rule)]


def test_every_field_has_a_rule_and_every_rule_a_field():
    assert fields(default_config()).keys() == rules().keys()


def test_no_rule_is_so_loose_that_nonsense_passes():
    for field, rule in rules().items():
        assert sum(rule.holds(value) for value in NEVER) <= 2, field


SHARED = ("view_vqgan.", "new_view_vqgan.", "diffusion.")
"""These sections share the rules of another one."""


@pytest.mark.parametrize("field", [name for name in rules() if not name.startswith(SHARED) and ".train." not in name])
def test_values_outside_the_range_are_refused(field):
    refuse(field)


@pytest.mark.parametrize("field", [name for name in rules() if name.startswith("diffusion.train.")])
def test_values_of_a_training_outside_the_range_are_refused(field):
    refuse(field)


def refuse(field):
    config, rule = default_config(), rules()[field]
    *above, last = field.split(".")
    section = config
    for part in above:
        section = section[part]
    for value in (*wrong(rule), *(value for value in NEVER if not rule.holds(value))):
        try:
            with section.ignore_type():
                section[last] = value
        except OverflowError:  # ml_collections refuses it already
            continue
        with pytest.raises(UserError) as refused:
            check_fields(config)
        assert str(refused.value).startswith(f"config.{field} is {shown(section[last])}; ")
        assert str(refused.value).endswith(f"allowed: {rule.allowed}")
        assert len(str(refused.value)) < 600


def test_every_number_has_bounds():
    for field, rule in rules().items():
        rule = rule.rule if isinstance(rule, Several) else rule
        assert not isinstance(rule, Number) or math.isfinite(rule.high - rule.low), field


def test_what_the_project_ships_keeps_the_rules():
    shipped = [make() for make in SCALES.values()]
    shipped += [quickstart.get_config("single"), paper.get_config("any"), paper.get_config("views=20")]
    shipped += [published.get_config(), *(baselines.get_config(f"{name},biplanar,tiny") for name in BASELINES)]
    shipped += [configure(scale, "phantom", 0, budget, []) for scale in SCALES for budget in (0.003, 1.0)]
    for config in shipped:
        check(config)


def test_the_table_names_what_there_is():
    assert set(rules()["sampler.name"].values) == {*SAMPLERS, ""}
    assert set(rules()["ct_vqgan.loss.gan_kind"].values) == set(KINDS)
    assert rules()["stage"].values == ("all", *STAGES, *BASELINES)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"angles": (90, 90.00001)}, "config.angles has 90 and 90.00001, which show the same view"),
        ({"angles": (0, 360)}, "config.angles has 0 and 360"),
        ({"new_angles": (-90, 270)}, "config.new_angles has -90 and 270"),
        ({"sampler.steps": 101}, "config.sampler.steps is 101; allowed: 1 to 100"),
        ({"diffusion.train.warmup_steps": 500_000}, "config.diffusion.train.warmup_steps is 500000"),
        (
            {"new_view.train.schedule": "linear", "new_view.train.decay_steps": 500_001},
            "config.new_view.train.decay_steps is 500001",
        ),
        ({"ct_vqgan.network.num_groups": 5}, "config.ct_vqgan.network.num_groups is 5; allowed: divisors of the 32"),
        ({"diffusion.network.groups": 7}, "config.diffusion.network.dim is 128; allowed: even multiples of the 7"),
        ({"new_view.network.head_dim": 9}, "config.new_view.network.head_dim is 9; allowed: even"),
    ],
)
def test_what_cannot_go_together_is_refused(changes, named):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as refused:
        check(config)
    assert named in str(refused.value)


def test_a_unet_that_halves_too_often_is_refused_before_any_stage_is_trained(tmp_path):
    config = default_config()
    config.diffusion.network.dim_mults = (1,) * 7
    with pytest.raises(UserError, match=r"config\.diffusion\.network\.dim_mults is \(1, 1, 1"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.stage = "ct_vqgan"
    check(config)  # this stage has no U-Net


def test_a_config_that_lacks_fields_is_refused():
    with pytest.raises(UserError, match=r"config\.stage is missing; allowed: a config made by"):
        check(ConfigDict({"a": 1}))


@pytest.mark.parametrize("make", [ConeBeamGeometry.paper, ConeBeamGeometry.covering])
@pytest.mark.parametrize("size", [0, -1, 1.5, math.nan, None])
def test_sizes_of_a_geometry(unchecked, make, size):
    with pytest.raises(UserError, match="allowed: a whole number, 1 or more"):
        make(size=size)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"volume_shape": (8, 8)}, "volume_shape"),
        ({"volume_shape": (8, 8, 8.5)}, "volume_shape"),
        ({"voxel_mm": (1.0, 1.0, math.inf)}, "voxel_mm"),
        ({"pixel_mm": (1.0, math.nan)}, "pixel_mm"),
        ({"source_detector_mm": math.inf}, "source_isocentre_mm"),
    ],
)
def test_lengths_of_a_geometry(unchecked, changed, named):
    usual = {"volume_shape": (8, 8, 8), "voxel_mm": (1.0,) * 3, "detector_shape": (8, 8), "pixel_mm": (1.0, 1.0)}
    with pytest.raises(UserError, match=f"{named} is .*; allowed"):
        ConeBeamGeometry(**(usual | changed))


@pytest.mark.parametrize(
    "pose", [{"angle_deg": math.nan}, {"angle_deg": (0, 90)}, {"angle_deg": "a"}, {"angle_deg": None},
             {"angle_deg": 0, "translation_mm": (0, 0)}, {"angle_deg": 0, "tilt_deg": (0, math.inf)}],
)  # fmt: skip
def test_numbers_of_a_pose(unchecked, pose):
    with pytest.raises(UserError, match=r"allowed: \d finite number"):
        view_pose(**pose)
    assert np.isfinite(view_pose(90.0)).all()
