"""Find which end of the patient the networks have at index 0 of D: the foot, or the head as in the released code.

A stage's facts contain its config with ``head_first``. Older folders lack that field. In them imported stages have the
head first, as the released code trained them. Stages trained here have the foot first, as all their volumes did.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dvg_jax.errors import UserError
from dvg_jax.training.checkpoint import load_facts


def of_stage(facts: Mapping[str, Any]) -> bool:
    """Return ``head_first`` from the facts of a finished stage. The importer alone writes ``source``."""
    return bool(facts.get("config", {}).get("head_first", "source" in facts))


def of_older_run(saved: Mapping[str, Any], stages: Iterable[Path]) -> bool:
    """Return ``head_first`` of a run whose saved config lacks it, by the folders of its stages; some may be missing.

    It is True if the run has the published projector and all its stages are imported. A stage that was trained here, or
    is being trained, has the foot first.
    """
    if saved.get("projector") != "published":
        return False
    models = [stage / "model" for stage in stages if stage.is_dir()]
    return all(model.is_dir() and of_stage(load_facts(model)) for model in models)


def check(head_first: bool, facts: Mapping[str, Any], folder: Path) -> None:
    """Check that a finished stage has the order that the config asks for.

    Args:
      head_first: from the config.
      facts: of the stage.
      folder: of the stage, for the message.

    Raises:
      UserError: the orders differ.
    """
    if (found := of_stage(facts)) != head_first:
        end = "head" if found else "foot"
        raise UserError(
            f"config.head_first is {head_first}, and the networks of {folder} have the {end} first; allowed: {found}, "
            "or stages trained with it"
        )
