"""Train what a config asks for, in order, in one working folder."""

from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax import config as configs
from dvg_jax.baselines import baseline_stage
from dvg_jax.build import build_dvg, required_stages
from dvg_jax.config import BASELINES, stage_settings
from dvg_jax.errors import UserError, near_path
from dvg_jax.shapes import Variables
from dvg_jax.stages import build_stage
from dvg_jax.training.checkpoint import load_model
from dvg_jax.training.distributed import is_first
from dvg_jax.training.loop import StageRun

FREE_FIELDS = ("stage", "log", "evaluate", "init", "sampler", "shard_parameters")
"""What may differ between two runs in one folder; training lengths may too, and whether examples are cached."""


def train(config: ConfigDict, workdir: Path) -> None:
    """Train ``config.stage``, or every stage the method needs; finished stages are kept as they are.

    Several processes (``distributed.join``) share ``workdir``.

    Raises:
      UserError: a bad config, a stage whose predecessors are missing, or a folder that belongs to another config.
    """
    dvg = build_dvg(config)
    needed = required_stages(config)
    if config.stage not in ("all", *needed, *BASELINES):
        raise UserError(
            f"config.stage is {config.stage}, which these switches leave out; allowed: all, {', '.join(needed)}"
        )
    todo = needed if config.stage == "all" else (config.stage,)
    check_owner(config, workdir)
    for name in todo:
        if finished_steps(config, workdir, name) >= stage_settings(config, name).train.steps:
            continue
        stage = baseline_stage(name, config, dvg) if name in BASELINES else build_stage(name, config, dvg)
        variables = load_stages(config, workdir, stage.requires, wanted_by=name)
        run = StageRun(config, stage, variables, workdir)
        if is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            configs.save(config, workdir / "config.json")
        run.run()


def load_stages(config: ConfigDict, workdir: Path, names: tuple[str, ...], wanted_by: str) -> dict[str, Variables]:
    """The variables of finished stages by name, from ``config.init.<stage>`` or the working folder."""
    loaded = {}
    for name in names:
        folder = model_folder(config, workdir, name)
        if not folder.is_dir():
            raise UserError(
                f"{wanted_by} needs stage {name}, and {folder} is missing; allowed: train it first "
                f"(--config.stage={name}) or point config.init.{name} to a trained one"
            )
        loaded[name] = load_model(folder)[0]
    return loaded


def model_folder(config: ConfigDict, workdir: Path, name: str) -> Path:
    """Where a finished stage is."""
    return (Path(config.init[name]) if config.init[name] else workdir / name) / "model"


def finished_steps(config: ConfigDict, workdir: Path, name: str) -> int:
    """How many steps a stage's written model was trained for; 0 where there is none."""
    folder = model_folder(config, workdir, name)
    if config.init[name] and not folder.is_dir():
        given = Path(config.init[name])
        near = f"; did you mean {given / name}?" if (given / name / "model").is_dir() else near_path(given)
        raise UserError(f"config.init.{name} is {given}{near}; allowed: a folder that holds a trained 'model'")
    return load_model(folder)[1]["steps"] if folder.is_dir() else 0


def check_owner(config: ConfigDict, workdir: Path, free: tuple[str, ...] = ()) -> None:
    """See that a folder with a config in it was trained with this one, but for the sections in ``free`` and those of
    comparison methods that it does not hold.
    """
    path = workdir / "config.json"
    if path.exists():
        was, now = _flat(configs.load(path)), _flat(config)
        for field in sorted(was.keys() | now.keys()):
            part = field.split(".")
            may_differ = part[0] in (*FREE_FIELDS, *free) or field.endswith(("train.steps", "train.cache"))
            may_differ |= part[0] == "baselines" and not (workdir / part[1]).exists()
            if not may_differ and was.get(field) != now.get(field):
                raise UserError(
                    f"config.{field} is {now.get(field)!r}, and {workdir} was trained with {was.get(field)!r}; "
                    "allowed: the same value, or another --workdir"
                )


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat
