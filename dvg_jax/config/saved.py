"""Write ``config.json``, and read it: refuse what is no config, and complete what an earlier version wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dvg_jax.cli.rules import refusal, shown
from dvg_jax.config.defaults import default_config
from dvg_jax.config.table import TABLE, Table
from dvg_jax.errors import UserError, did_you_mean
from dvg_jax.files.atomic import replacing

YOUNGER = {
    *("random_views", "projector", "normalize_new_view", "head_first", "shard_parameters", "sampler.name"),
    "deterministic",
    *("consistency", "films", "refine", "baselines", "calibration", "init", "data.augment", "new_view.loss"),
    *("diffusion.target", "evaluate.protocols", "evaluate.lpips_range", "evaluate.also", "evaluate.stress"),
    *(f"{stage}.network.remat" for stage in ("ct_vqgan", "view_vqgan", "new_view_vqgan", "new_view", "diffusion")),
    *(f"{stage}.train.weight_decay" for stage in ("ct_vqgan", "view_vqgan", "new_view_vqgan", "new_view", "diffusion")),
}
"""These fields and sections get their defaults: earlier versions did not write them, or not all of them."""

GONE = {"log.evaluate_cases", "refine.wear", "baselines.unrolled.wear"}
"""These fields and sections of earlier versions no longer mean anything."""


def save(config: ConfigDict, path: Path) -> None:
    """Write ``config`` as JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Read the fields that :func:`save` wrote; lists come back as tuples.

    Raises:
      UserError: the file is missing or is no config, lacks a field, has an unknown one, or a value that breaks its
        field's rule; names file and field.
    """
    try:
        saved = _tuples(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; allowed: a --workdir that train.py has written") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a saved config ({error}); allowed: one that train.py has written") from None
    if not isinstance(saved, dict):
        raise UserError(f"{path} is not a saved config; allowed: one that train.py has written")
    _check(saved, TABLE, path)
    return saved


def completed(saved: dict[str, Any]) -> ConfigDict:
    """Return saved fields as a config, in which every field younger than the file has its default."""
    return ConfigDict(_filled(saved, default_config().to_dict()))


def _check(found: Mapping[str, Any], table: Table, path: Path, place: str = "", younger: bool = False) -> None:
    """Refuse the first field of a section that is missing, unknown or wrong.

    Args:
      found: the section's fields.
      table: their rules.
      path: of the file.
      place: of the section, as ``data.``.
      younger: any field may be missing.
    """
    for name in found:
        field = f"{place}{name}"
        if name not in table and field not in GONE:
            near, allowed = did_you_mean(name, table), ", ".join(table)
            section = f"config.{place}".rstrip(".")
            raise UserError(f"{path}: {section} has no field {shown(name)}{near}; allowed: {allowed}")
    for name, rule in table.items():
        field = f"{place}{name}"
        young = younger or field in YOUNGER
        if name not in found:
            if not young:
                raise UserError(f"{path}: config.{field} is missing; allowed: a file that train.py has written")
        elif not isinstance(rule, dict):
            if not rule.holds(found[name]):
                raise UserError(f"{path}: {refusal(field, found[name], rule)}")
        elif isinstance(found[name], dict):
            _check(found[name], rule, path, f"{field}.", young)
        else:
            raise UserError(f"{path}: config.{field} is {shown(found[name])}; allowed: a section, {', '.join(rule)}")


def _filled(saved: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    nested = {
        k: _filled(saved[k], v) for k, v in default.items() if isinstance(v, dict) and isinstance(saved.get(k), dict)
    }
    return default | saved | nested


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
