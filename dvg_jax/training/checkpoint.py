"""Write and read training states and finished stages. Orbax writes to a temporary folder and renames it."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dvg_jax.errors import UserError
from dvg_jax.shapes import Variables
from dvg_jax.training import distributed


class Checkpoints:
    """Store the training states of one stage, each with the position of the data iterator."""

    def __init__(self, folder: Path, kept: int) -> None:
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=kept, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Return the last step that is wholly written."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Write a state, unless its step is stored already.

        Args:
          step: the number of steps taken.
          state: a pytree of arrays.
          data: position of the data iterator, as JSON.
        """
        if self.latest() == step:
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=args)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Return the state of ``step``, in shapes and on devices of ``like``, and the data iterator's position."""
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(step, args=args)
        except Exception as error:
            raise _unreadable(self._folder / str(step), error) from error
        return found["state"], found["data"]

    def close(self) -> None:
        """Wait until everything is written."""
        self._manager.close()


def save_model(folder: Path, variables: Variables, facts: dict[str, Any]) -> None:
    """Write a finished stage's variables and facts about them; replace an older model as a whole.

    All processes call it. The new model is written before the old one is removed. Orbax's own ``force`` deletes first,
    so a run that is killed then has neither.

    Args:
      folder: of the model.
      variables: of the stage.
      facts: about them, as JSON.
    """
    folder = folder.absolute()
    new, old = (folder.with_name(f".{which}-{folder.name}") for which in ("new", "old"))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        args = ocp.args.Composite(variables=ocp.args.StandardSave(variables), facts=ocp.args.JsonSave(facts))
        checkpointer.save(new, args=args, force=True)  # overwrites what a killed run left
    if distributed.is_first():
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    distributed.wait_for_all()


def load_model(folder: Path) -> tuple[Variables, dict[str, Any]]:
    """Read variables and facts that :func:`save_model` wrote, as NumPy arrays, on any devices."""
    folder = folder.absolute()
    try:
        handlers = {"variables": ocp.PyTreeCheckpointHandler(), "facts": ocp.JsonCheckpointHandler()}
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer:
            tree = checkpointer.metadata(folder).item_metadata["variables"].tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            args = ocp.args.Composite(
                variables=ocp.args.PyTreeRestore(restore_args=as_numpy), facts=ocp.args.JsonRestore()
            )
            found = checkpointer.restore(folder, args=args)
    except Exception as error:
        raise _unreadable(folder, error) from error
    return found["variables"], found["facts"]


def load_facts(folder: Path) -> dict[str, Any]:
    """Read the facts that :func:`save_model` stored with a model; its weights are not read."""
    folder = folder.absolute()
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(facts=ocp.JsonCheckpointHandler())) as checkpointer:
            return checkpointer.restore(folder, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]
    except Exception as error:
        raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:200] if lines else type(error).__name__
    return UserError(f"checkpoint {path} cannot be read: {reason}; allowed: one that this program has written")
