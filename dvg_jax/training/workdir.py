"""Read a working folder: its config, and its finished stages with their facts.

<workdir>/config.json             the config that it was trained with
<workdir>/<stage>/model           variables of a finished stage, and facts about it
"""

import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dvg_jax import config as configs
from dvg_jax.cli.rules import shown
from dvg_jax.config import ALL_STAGES, BASELINES, STAGES, stage_field, stage_settings
from dvg_jax.config.table import is_free
from dvg_jax.errors import UserError, near_path
from dvg_jax.shapes import VariablesByStage
from dvg_jax.training import orientation
from dvg_jax.training.checkpoint import load_facts, load_model

TURNED = (*STAGES, "cddpm", "unrolled")
"""Networks of these stages have D in the order that ``config.head_first`` says; all others have the foot first."""


def load_config(workdir: Path) -> ConfigDict:
    """Return the config that ``workdir`` was trained with.

    A field younger than the file gets its default, except ``head_first``, which follows from the folder's stages.

    Raises:
      UserError: no config is there, or the file is none; names the field.
    """
    saved = configs.read(workdir / "config.json")
    if "head_first" not in saved:
        saved["head_first"] = orientation.of_older_run(saved, [workdir / stage for stage in STAGES])
    return configs.completed(saved)


def load_stages(config: ConfigDict, workdir: Path, names: tuple[str, ...], wanted_by: str) -> VariablesByStage:
    """Read the variables of finished stages by name, from ``config.init.<stage>`` or the working folder.

    Args:
      config: of the run.
      workdir: the working folder.
      names: of the stages.
      wanted_by: needs them; for the message.

    Raises:
      UserError: a stage is missing or damaged, was trained from other stages, or has another network or order of D.
    """
    loaded = {}
    for name in names:
        folder = model_folder(config, workdir, name)
        if not folder.is_dir():
            raise UserError(
                f"{wanted_by} needs stage {name}, and {folder} is missing; allowed: train it first "
                f"(--config.stage={name}) or point config.init.{name} to a trained one"
            )
        check_origin(config, workdir, name)
        loaded[name], facts = load_model(folder)
        _check_network(config, name, facts, folder)
        if name in TURNED:
            orientation.check(config.head_first, facts, folder)
    return loaded


def _check_network(config: ConfigDict, name: str, facts: dict[str, Any], folder: Path) -> None:
    """Check that a finished stage has the network that the config describes; facts without a config pass."""
    sections = facts.get("config", {})
    was = _flat(ConfigDict((sections.get("baselines", {}) if name in BASELINES else sections).get(name, {})))
    now = _flat(ConfigDict(json.loads(stage_settings(config, name).to_json())))
    for field in sorted(was.keys() & now.keys()):
        path = f"{stage_field(name)}.{field}"
        if field.split(".")[0] not in ("train", "loss") and not is_free(path) and was[field] != now[field]:
            raise UserError(
                f"config.{path} is {now[field]}, and {folder.parent} was trained with {was[field]}; allowed: the same"
            )


def check_origin(config: ConfigDict, workdir: Path, name: str) -> None:
    """Check that a finished stage was trained from the stages that are used with it.

    A stage that was imported, or written by an earlier version, does not record what it was trained from, and passes.

    Args:
      config: of the run.
      workdir: the working folder.
      name: of the stage.

    Raises:
      UserError: it was trained from other stages.
    """
    folder = model_folder(config, workdir, name)
    for other, digest in load_facts(folder).get("from", {}).items():
        place = model_folder(config, workdir, other)
        if place.is_dir() and load_facts(place).get("fingerprint", digest) != digest:
            raise UserError(
                f"{folder.parent} was trained from another {other} than {place.parent} holds now; allowed: remove "
                f"{folder.parent} and train {name} again, or bring the other {other} back"
            )


def model_folder(config: ConfigDict, workdir: Path, name: str) -> Path:
    """Return the folder of a finished stage.

    Args:
      config: of the run; ``init`` may name a folder of another run.
      workdir: the working folder.
      name: of the stage.
    """
    return (Path(config.init[name]) if config.init[name] else workdir / name) / "model"


def finished_steps(config: ConfigDict, workdir: Path, name: str) -> int:
    """Return the number of steps that a stage's written model was trained for; 0 where there is none.

    Args:
      config: of the run.
      workdir: the working folder.
      name: of the stage.

    Raises:
      UserError: ``config.init`` names a folder without a model.
    """
    folder = model_folder(config, workdir, name)
    if config.init[name] and not folder.is_dir():
        given = Path(config.init[name])
        near = f"; did you mean {given / name}?" if (given / name / "model").is_dir() else near_path(given)
        raise UserError(f"config.init.{name} is {given}{near}; allowed: a folder that holds a trained 'model'")
    return load_facts(folder)["steps"] if folder.is_dir() else 0


def has_refiner(config: ConfigDict, workdir: Path) -> bool:
    """Tell whether a refiner is trained, from the stages at hand; one of other stages gives a warning on stderr.

    Raises:
      UserError: as in :func:`finished_steps`.
    """
    if not finished_steps(config, workdir, "refine"):
        return False
    try:
        check_origin(config, workdir, "refine")
    except UserError as error:
        print(f"warning: the refiner is left out: {error}", file=sys.stderr)
        return False
    return True


def is_begun(folder: Path) -> bool:
    """Tell whether a stage's folder contains a model or a checkpoint: what a config has made, and is bound to.

    Examples are not: each set has digests of all that it depends on.
    """
    return (folder / "model").exists() or has_checkpoint(folder)


def has_checkpoint(folder: Path) -> bool:
    """Tell whether a training in a stage's folder has written a checkpoint."""
    return any(path.name.isdigit() for path in folder.glob("checkpoints/*"))


def check_owner(config: ConfigDict, workdir: Path, free: tuple[str, ...] = ()) -> None:
    """Refuse a folder whose config differs from this one; a folder without a config, or without any work, passes.

    So the config of a run that failed before its first checkpoint is replaced. The settings of a stage that is not
    begun may differ too, unless ``config.init`` takes it from elsewhere, and fields that the table marks as free.

    Args:
      config: of this run.
      workdir: the folder.
      free: sections in which all fields may differ.

    Raises:
      UserError: another field differs, or the folder's config is none.
    """
    begun = {stage for stage in ALL_STAGES if is_begun(workdir / stage)}
    if not begun or not (workdir / "config.json").exists():
        return
    was, now = _flat(load_config(workdir)), _flat(config)
    for field in sorted(was.keys() | now.keys()):
        section, *rest = field.split(".")
        stage = rest[0] if section == "baselines" else section
        open_ = stage in ALL_STAGES and stage not in begun and not config.init[stage]
        if not (open_ or section in free or is_free(field)) and was.get(field) != now.get(field):
            raise UserError(
                f"config.{field} is {shown(now.get(field))}, and {workdir} was trained with {shown(was.get(field))}; "
                "allowed: the same value, or another --workdir"
            )


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat
