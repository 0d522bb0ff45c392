"""Write and read training states and finished stages. Each is a sealed folder, which takes its name once it is whole.

What is damaged is refused by name: files are compared with their digests before anything reads them, the variables of
a model with theirs afterwards. Folders of earlier versions have no digests; those that cannot be checked are named.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dvg_jax.errors import UserError, listed
from dvg_jax.files.partial import remove
from dvg_jax.files.sealed import NAME, check_seal, damaged
from dvg_jax.fingerprint import fingerprint, of_variables
from dvg_jax.finite import finite
from dvg_jax.shapes import Variables
from dvg_jax.training import distributed
from dvg_jax.training.writing import Background, apart, begin, write

_DIGESTS = "variables"
"""The fact that has a digest of each variable; callers do not see it."""
_OF_FACTS = ("facts/", "_CHECKPOINT_METADATA")
_LOOKS = 20
"""A model is read again so often, where another one took its place meanwhile."""

_Found = TypeVar("_Found")


class Checkpoints:
    """Store the training states of one stage, each with the position of the data iterator, under its step's number.

    A state is copied off the device and written while the training goes on, one at a time. An error is raised by the
    next call of :meth:`save`, :meth:`check` or :meth:`wait`. Leaving a ``with`` block waits too. With several processes
    the training waits for each state, since the processes' barriers must come in one order.

    All processes call each method.

    Args:
      folder: of the states.
      kept: the number of states that stay; older ones go.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        self._folder, self._kept = folder.absolute(), kept
        self._background = Background()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.wait()
            return
        try:
            self.wait()
        except Exception as failed:  # the first error is the one to raise; this one must not hide it
            print(f"warning: {self._folder}: a state could not be written: {_first_line(failed)}", file=sys.stderr)

    def latest(self) -> int | None:
        """Return the last step that is wholly written."""
        return max(self._steps(), default=None)

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Begin to write a state, unless its step is stored already; the arrays may be donated afterwards.

        Args:
          step: the number of steps taken.
          state: a pytree of JAX arrays.
          data: position of the data iterator, as JSON.
        """
        self.wait()
        if self.latest() == step:
            return
        folder, items = self._folder / str(step), {"data": ocp.args.JsonSave(data)}
        if jax.process_count() == 1:
            finish = begin(folder, state=ocp.args.StandardSave(apart(state)), **items)
            self._background.begin(lambda: self._end(finish))
            return
        write(folder, state=ocp.args.StandardSave(state), **items)
        if distributed.is_first():
            self._remove_old()
        distributed.wait_for_all()

    def check(self) -> None:
        """Raise the error of a state that could not be written; never wait."""
        self._background.check()

    def wait(self) -> None:
        """Wait until the state that is being written, if there is one, is whole; raise its error."""
        self._background.wait()

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Return the state of ``step``, in shapes and on devices of ``like``, and the data iterator's position.

        Raises:
          UserError: it is damaged; an older state is named and not used.
        """
        self.wait()
        folder = self._folder / str(step)
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        try:
            if not check_seal(folder):
                _say_unchecked(folder)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore())
            with _opened(folder, **handlers) as checkpointer:
                found = checkpointer.restore(folder, args=args)
        except UserError as error:
            older = [other for other in self._steps() if other < step]
            on = f"to go on from step {older[-1]}" if older else "to begin anew"
            raise UserError(f"{error}, or remove it {on}") from error
        return found["state"], found["data"]

    def _end(self, finish: Callable[[], None]) -> None:
        finish()
        self._remove_old()

    def _remove_old(self) -> None:
        for old in self._steps()[: -self._kept]:
            remove(self._folder / str(old))

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())


def save_model(folder: Path, variables: Variables, facts: dict[str, Any]) -> None:
    """Write a finished stage's variables and facts about them; replace an older model as a whole.

    All processes call it. The new model takes the name when it is whole, in one step where the system can: who reads
    the folder meanwhile finds either model.

    Args:
      folder: of the model.
      variables: of the stage.
      facts: about them, as JSON.

    Raises:
      UserError: a variable is not finite; the older model stays.
    """
    finite(f"what {folder} is to hold", variables)
    facts = facts | {_DIGESTS: of_variables(variables)}
    write(folder, variables=ocp.args.StandardSave(variables), facts=ocp.args.JsonSave(facts))


def load_model(folder: Path) -> tuple[Variables, dict[str, Any]]:
    """Read variables and facts that :func:`save_model` wrote, as NumPy arrays, on any devices.

    Raises:
      UserError: the folder is damaged, or a variable is not finite.
    """
    return _settled(folder, _model)


def load_facts(folder: Path) -> dict[str, Any]:
    """Read the facts that :func:`save_model` stored with a model; its weights are not read.

    Raises:
      UserError: they are damaged.
    """
    facts = _settled(folder, _facts)
    facts.pop(_DIGESTS, None)
    return facts


def _model(folder: Path) -> tuple[Variables, dict[str, Any]]:
    sealed = check_seal(folder)
    handlers = {"variables": ocp.PyTreeCheckpointHandler(), "facts": ocp.JsonCheckpointHandler()}
    with _opened(folder, **handlers) as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata["variables"].tree
        as_numpy = ocp.args.PyTreeRestore(
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        )
        args = ocp.args.Composite(variables=as_numpy, facts=ocp.args.JsonRestore())
        found = checkpointer.restore(folder, args=args)
    variables, facts = found["variables"], found["facts"]
    digests = facts.pop(_DIGESTS, None)
    if digests is not None and not sealed:
        raise damaged(folder, f"{NAME} is missing")
    if digests is not None:
        now = of_variables(variables)
        differing = [name for name in sorted(digests.keys() | now.keys()) if digests.get(name) != now.get(name)]
        if differing:
            raise damaged(folder, f"{listed(differing)} changed")
    elif "fingerprint" not in facts:
        _say_unchecked(folder)
    elif fingerprint({facts.get("stage", ""): variables}) != facts["fingerprint"]:
        raise damaged(folder, "its fingerprint changed")
    return finite(str(folder), variables), facts


def _facts(folder: Path) -> dict[str, Any]:
    check_seal(folder, _OF_FACTS)
    with _opened(folder, facts=ocp.JsonCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]


@contextmanager
def _opened(folder: Path, **handlers: ocp.CheckpointHandler) -> Iterator[ocp.Checkpointer]:
    """Yield what reads items of a folder by name; its errors become one line."""
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer:
            yield checkpointer
    except Exception as error:
        raise UserError(
            f"checkpoint {folder} cannot be read: {_first_line(error)}; allowed: one that this program has written"
        ) from error


def _settled(folder: Path, read: Callable[[Path], _Found]) -> _Found:
    """Return what ``read`` finds in a folder; once more where another took the folder's name meanwhile."""
    folder = folder.absolute()
    for _ in range(_LOOKS):
        before, failed = _identity(folder), None
        try:
            found = read(folder)
        except UserError as error:
            failed = error
        if _identity(folder) == before:
            if failed is not None:
                raise failed
            return found
    raise UserError(f"{folder} was replaced {_LOOKS} times while it was read; allowed: one that stays meanwhile")


def _identity(folder: Path) -> tuple[int, ...]:
    """Return what differs between a folder and another one under its name, which may have the first one's number."""
    try:
        found = folder.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _say_unchecked(folder: Path) -> None:
    if distributed.is_first():
        print(f"warning: {folder} is not checked: written by an earlier version, without digests", file=sys.stderr)
