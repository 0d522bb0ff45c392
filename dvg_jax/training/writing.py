"""Write a folder of Orbax items whole or not at all: at once, or while the caller goes on with its work.

    begin: items off the device --Orbax's threads--> files  |  finish: sealed, synced, named

A folder takes its name once it is sealed and on the disk. What is unfinished has a hidden name and is cleared later.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from dvg_jax.files.atomic import make_folder
from dvg_jax.files.durable import take_place
from dvg_jax.files.partial import OLD, clear_partials, hidden, remove
from dvg_jax.files.sealed import seal
from dvg_jax.training import distributed

_OPTIONS = ocp.options.AsyncOptions(
    timeout_secs=10**6,
    create_directories_asynchronously=False,
)
"""A disk may take as long as it needs, and one that may not be written to is told at once."""

Tree = TypeVar("Tree")


def write(folder: Path, **items: ocp.args.CheckpointArgs) -> None:
    """Write items beside ``folder``, seal them and give them its name. All processes call it."""
    _begin(folder, items, ocp.Checkpointer(ocp.CompositeCheckpointHandler()))()
    distributed.wait_for_all()


def begin(folder: Path, **items: ocp.args.CheckpointArgs) -> Callable[[], None]:
    """Begin what :func:`write` does; return the call that does the rest, which any thread may make.

    Arrays on accelerators have been copied when this returns; those in the host's memory are read later, and must not
    change until the rest is done: see :func:`apart`. It is for one process alone.
    """
    return _begin(folder, items, ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=_OPTIONS))


def apart(tree: Tree) -> Tree:
    """Return a tree whose arrays in a CPU's memory are copies; Orbax copies arrays of other devices itself.

    Orbax reads a CPU's arrays where they are, and a training step that is given them may write its result there.
    """

    def own(leaf: jax.Array) -> jax.Array:
        devices: set[Any] = leaf.sharding.device_set
        on_host = all(device.platform == "cpu" for device in devices)
        return jax.device_put(leaf, leaf.sharding, may_alias=False) if on_host else leaf

    return jax.tree.map(own, tree)


class Background:
    """Do one work at a time while the caller goes on. Its error is raised by the next call that finds it ended."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "background")
        self._under_way: Future[None] | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Begin a work, once the one before has ended."""
        self.wait()
        self._under_way = self._thread.submit(work)

    def check(self) -> None:
        """Raise the error of a work that has ended by one; never wait."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the work under way, if there is one, and raise its error."""
        if self._under_way is None:
            return
        wait([self._under_way])  # who is interrupted here can wait again
        ended, self._under_way = self._under_way, None
        ended.result()


def _begin(folder: Path, items: dict[str, Any], checkpointer: ocp.Checkpointer) -> Callable[[], None]:
    with ExitStack() as begun:
        new = begun.enter_context(_placed(folder))
        begun.enter_context(checkpointer)  # on leaving it waits for its threads
        checkpointer.save(new, args=ocp.args.Composite(**items), force=True)
        return begun.pop_all().close


@contextmanager
def _placed(folder: Path) -> Iterator[Path]:
    """Yield a hidden name beside ``folder``; what has it at the end is sealed and takes the folder's name."""
    folder = Path(os.path.realpath(folder))  # a link stays one
    new = folder.with_name(distributed.of_first(hidden(folder).name))
    first = distributed.is_first()
    if first:
        make_folder(folder.parent)
        clear_partials(folder.parent)
    try:
        yield new
        if first:
            seal(new)
            take_place(new, folder, hidden(folder, OLD))
    finally:
        if first:  # the older one, or parts of what failed under names that orbax derives
            for path in [path for path in folder.parent.iterdir() if path.name.startswith(new.name)]:
                remove(path)
