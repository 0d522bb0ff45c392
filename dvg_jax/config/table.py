"""Give every field of a config its rule: one table in the shape of the config.

A rule also says whether two runs in one working folder may differ in the field (``free``), and whether the examples
that frozen stages make may depend on it (``changes_examples``). ``config/defaults.py`` has the defaults.
``config/relations.py`` checks combinations of fields. A field without a row here fails
``tests/cases/test_config_ranges.py``.
"""

from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from dvg_jax.cli.limits import DEPTH, HELD, NUMBER, SEED, SIDE, WEIGHT, WIDTH
from dvg_jax.cli.rules import Number, OneOf, Rule, Several, Switch, Text, Words, refusal
from dvg_jax.consistency import MODES
from dvg_jax.errors import UserError, did_you_mean
from dvg_jax.xray.geometry import GEOMETRIES
from dvg_jax.xray.views import PROJECTORS

VQGANS = ("ct_vqgan", "view_vqgan", "new_view_vqgan")

LATENT_STAGES = ("new_view", "diffusion")

PAPER_STAGES = (*VQGANS, *LATENT_STAGES)

STAGES = (*PAPER_STAGES, "refine")
"""The stages of the pipeline are listed in the order of training; the last one is not the paper's."""

BASELINES = ("cnn2d", "x2ct_cnn", "x2ct_gan", "prior_net", "residual_unet", "bx2s", "reconnet", "cddpm", "unrolled")
"""The comparison methods."""

ALL_STAGES = (*STAGES, *BASELINES)
"""Whatever can be trained: each has a folder of this name in a working folder, and a field in ``config.init``."""

Table = dict[str, Any]
"""It maps a field to its rule, or a section to another table."""

SHARE = Number(0, 1)
BELOW_ONE = Number(0, 1, open_high=True)
MULTIPLE = Number(0, 64, open_low=True)
ANGLE = Number(-360, 360)
VIEWS = 360
"""There is one view a degree at most; the paper has up to 20."""
SWITCH = Switch()
DISTANCE = OneOf(("mse", "l1"), changes_examples=False)


def or_none(rule: Number) -> Number:
    """Return a rule for counts that allows 0 too."""
    return replace(rule, low=0)


def marked(table: Table, **marks: bool) -> Table:
    """Return a section all of whose rules have these marks."""
    return {
        name: marked(entry, **marks) if isinstance(entry, dict) else replace(entry, **marks)
        for name, entry in table.items()
    }


TRAIN: Table = {
    "steps": replace(NUMBER, free=True),
    "batch_size": HELD,
    "learning_rate": Number(0, 1, open_low=True),
    "schedule": OneOf(("constant", "cosine", "linear", "staircase")),
    "warmup_steps": or_none(NUMBER),
    "decay_steps": or_none(NUMBER),
    "end_rate": SHARE,
    "beta1": BELOW_ONE,
    "beta2": BELOW_ONE,
    "clip_norm": WEIGHT,
    "weight_decay": WEIGHT,
    "ema_decay": BELOW_ONE,
    "ema_every": NUMBER,
    "ema_start": or_none(NUMBER),
    "cache": Switch(free=True),
}
TRAIN = marked(TRAIN, changes_examples=False)

VQGAN: Table = {
    "network": {
        "n_hiddens": WIDTH,
        "downsample": Several(OneOf((1, 2, 4, 8, 16, 32, 64)), count=3, example="(4, 4, 4)"),
        "embedding_dim": WIDTH,
        "n_codes": Number(1, 2**20, whole=True),
        "num_groups": WIDTH,
        "decoder_res_blocks": or_none(DEPTH),
        "remat": SWITCH,
    },
    "loss": marked(
        {
            "reconstruction": WEIGHT,
            "commitment": WEIGHT,
            "perceptual": WEIGHT,
            "gan": WEIGHT,
            "feature_matching": WEIGHT,
            "gan_start": or_none(NUMBER),
            "gan_kind": OneOf(("hinge", "vanilla")),
            "disc_width": WIDTH,
            "disc_layers": Number(1, 8, whole=True),
            "restart_threshold": WEIGHT,
        },
        changes_examples=False,
    ),
    "train": TRAIN,
}

# Time features are sines and cosines of half as many frequencies, of which there must be at least two.
UNET: Table = {
    "dim": replace(WIDTH, low=4),
    "dim_mults": Several(Number(1, 64, whole=True), least=1, example="(1, 2, 4)"),
    "heads": WIDTH,
    "head_dim": replace(WIDTH, low=2),
    "remat": SWITCH,
}
LATENT: Table = {"network": UNET | {"groups": WIDTH}, "train": TRAIN}

REFINER: Table = {
    "network": {"widths": Several(WIDTH, least=1, example="(24, 48, 72)"), "num_groups": WIDTH, "remat": SWITCH},
    "rounds": DEPTH,
    "loss": marked({"l1": WEIGHT, "perceptual": WEIGHT}, changes_examples=False),
    "train": TRAIN,
}

X2CT: Table = {
    "width": MULTIPLE,
    "layers": Several(or_none(DEPTH), count=5, example="(6, 12, 24, 16, 6)"),
    "dropout": BELOW_ONE,
    "train": TRAIN,
}

METHODS: Table = {
    "cnn2d": {
        "width": MULTIPLE,
        "fusion": OneOf(("early", "late")),
        "blocks": Several(DEPTH, count=5, example="(4, 3, 3, 3, 5)"),
        "train": TRAIN,
    },
    "x2ct_cnn": X2CT,
    "x2ct_gan": X2CT
    | {"loss": dict.fromkeys(("adversarial", "reconstruction", "projection"), replace(WEIGHT, changes_examples=False))},
    "prior_net": {
        "width": MULTIPLE,
        "norm": OneOf(("batch", "group")),
        "loss": OneOf(("l1", "full"), changes_examples=False),
        "train": TRAIN,
    },
    "residual_unet": {"width": MULTIPLE, "train": TRAIN},
    "bx2s": {"base": replace(WIDTH, low=4), "guided": SWITCH, "loss": DISTANCE, "train": TRAIN},
    "reconnet": {"width": MULTIPLE, "start_depth": OneOf((2, 4)), "loss": DISTANCE, "train": TRAIN},
    "cddpm": {
        "space": OneOf(("pixel", "latent")),
        "new_view": SWITCH,
        "network": UNET | {"attention_size": or_none(SIDE)},
        "train": TRAIN,
    },
    "unrolled": REFINER,
}

TABLE: Table = {
    "stage": OneOf(("all", *ALL_STAGES), free=True, changes_examples=False),
    "seed": SEED,
    "size": replace(SIDE, low=2),
    "geometry": OneOf(GEOMETRIES),
    "angles": Several(ANGLE, least=1, most=VIEWS, example="(0.0, 90.0)"),
    "new_angles": Several(ANGLE, most=VIEWS, example="(45.0,)"),
    "use_vpge": SWITCH,
    "use_diffusion": SWITCH,
    "random_views": Number(0, VIEWS, whole=True),
    "projector": OneOf(tuple(PROJECTORS)),
    "normalize_new_view": SWITCH,
    "head_first": SWITCH,
    "decode_quantized": SWITCH,
    "floor": BELOW_ONE,
    "dtype": OneOf(("float32", "bfloat16")),
    "shard_parameters": Switch(free=True),
    "deterministic": Switch(free=True, changes_examples=False),
    "timesteps": HELD,
    "sampler": marked(
        {
            "name": OneOf(("ancestral", "ddim", "dpmpp_2m", "")),
            "steps": or_none(HELD),
            "eta": SHARE,
        },
        free=True,
        changes_examples=False,
    )
    | {"clip": replace(WEIGHT, free=True)},  # it counts in the results that the refiner learns from
    "consistency": marked(
        {
            "mode": OneOf(MODES),
            "strength": replace(WEIGHT, open_low=True),
            "iterations": HELD,
        },
        free=True,
        changes_examples=False,
    ),
    "init": dict.fromkeys(
        ALL_STAGES,
        Text("a stage's folder of another run, or nothing", empty=True, free=True, changes_examples=False),
    ),
    # The source's own identity covers the data that examples depend on.
    "data": marked(
        {
            "source": Text("phantom, or a folder written by dvg_jax.data.prepare, or several"),
            "train_count": or_none(NUMBER),
            "test_count": NUMBER,
            "augment": SWITCH,
        },
        changes_examples=False,
    ),
    "films": {
        "height_mm": Number(0, 80),
        "scale": Number(0, 0.3),
        "rotation_deg": Number(0, 20),
        "distance": Number(0, 0.3),
        "curve": Number(0, 1),
        "noise": SHARE,
        "letters": SHARE,
        "collimation": Number(0, 0.4),
    },
    "ct_vqgan": VQGAN,
    "view_vqgan": VQGAN,
    "new_view_vqgan": VQGAN,
    "new_view": LATENT | {"loss": {"pixel": WEIGHT, "pixel_start": or_none(NUMBER)}},
    "diffusion": LATENT | {"target": OneOf(("latent", "residual"))},
    "refine": REFINER,
    "baselines": METHODS,
    "calibration": marked(
        {"cases": or_none(HELD), "samples": HELD},
        free=True,
        changes_examples=False,
    ),
    "log": marked(
        {
            "metrics_every": NUMBER,
            "checkpoint_every": NUMBER,
            "checkpoints_kept": NUMBER,
            "evaluate_every": or_none(NUMBER),
        },
        free=True,
        changes_examples=False,
    ),
    "evaluate": marked(
        {
            "cases": NUMBER,
            "batch_size": HELD,
            "protocols": Words(("hu", "x2ct", "dvg")),
            "lpips": OneOf(("vgg", "alex", "")),
            "lpips_range": OneOf(("unit", "signed")),
            "pictures": or_none(HELD),
            "also": Text("phantom, or a folder written by dvg_jax.data.prepare, or nothing", empty=True),
            "stress": Text("standard, or imperfections of films as NAME:SIZE,NAME:SIZE, or nothing", empty=True),
        },
        free=True,
        changes_examples=False,
    ),
}


def rules(table: Table | None = None, prefix: str = "") -> dict[str, Rule]:
    """Return the rule of every field, by its path such as ``ct_vqgan.train.steps``."""
    flat: dict[str, Rule] = {}
    for name, entry in (TABLE if table is None else table).items():
        flat |= rules(entry, f"{prefix}{name}.") if isinstance(entry, dict) else {prefix + name: entry}
    return flat


def is_free(field: str) -> bool:
    """Tell whether two runs in one working folder may differ in a field.

    A field of an older version that is in the table no more is as free as all others of its section.
    """
    table = rules()
    alike = [table[field]] if field in table else _section(table, field.split(".")[0])
    return bool(alike) and all(rule.free for rule in alike)


def _section(table: dict[str, Rule], name: str) -> list[Rule]:
    return [rule for field, rule in table.items() if field.startswith(f"{name}.")]


def example_settings(config: ConfigDict, table: Table | None = None) -> dict[str, Any]:
    """Return the settings that a frozen stage's examples may depend on; sections without any are left out."""
    found: dict[str, Any] = {}
    for name, entry in (TABLE if table is None else table).items():
        if isinstance(entry, dict):
            found |= {name: section} if (section := example_settings(config[name], entry)) else {}
        elif entry.changes_examples:
            found[name] = config[name]
    return found


def check_fields(config: ConfigDict) -> None:
    """Refuse the first field that is missing or whose value breaks its rule, by the field's name.

    Raises:
      UserError: there is such a field.
    """
    for field, rule in rules().items():
        value: Any = config
        for part in field.split("."):
            if not isinstance(value, ConfigDict) or part not in value:
                raise UserError(f"config.{field} is missing; allowed: a config made by dvg_jax.config.default_config()")
            value = value[part]
        if not rule.holds(value):
            raise UserError(refusal(field, value, rule))


def check_name(field: str, config: ConfigDict) -> None:
    """Refuse the path of a field that ``config`` does not have, or of a whole section."""
    section, place = config, "config"
    *above, last = field.split(".")
    for part in (*above, last):
        names = list(section.keys()) if isinstance(section, ConfigDict) else []
        if part not in names:
            allowed = f"allowed: {', '.join(names)}" if names else f"allowed: {place} itself"
            near = did_you_mean(part, names) or _elsewhere(last, config)
            raise UserError(f"{place} has no field {part!r}{near}; {allowed}")
        section, place = section[part], f"{place}.{part}"
    if isinstance(section, ConfigDict):
        raise UserError(f"{place} is a section; allowed: one of its fields, {', '.join(section.keys())}")


def _elsewhere(name: str, config: ConfigDict) -> str:
    """Return ``; did you mean PATH?`` if other sections have a field of this name, the pipeline's before others."""
    found = sorted((path for path in _paths(config) if path.split(".")[-1] == name), key=lambda path: path.count("."))
    more = f", or one of {len(found) - 1} others" if len(found) > 1 else ""
    return f"; did you mean config.{found[0]}{more}?" if found else ""


def _paths(config: ConfigDict, prefix: str = "") -> list[str]:
    """List all fields of a config by their paths."""
    paths: list[str] = []
    for name, value in config.items():
        paths += _paths(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]
    return paths
