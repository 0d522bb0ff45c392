"""Write files and folders whole or not at all, alone or all those of a run together.

with together(stale) as removed:      on success every new file takes its name, stale ones go
    save_nifti(...), write_page(...)  each by replacing() or new_folder(), under a temporary name until then
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from dvg_jax.errors import UserError
from dvg_jax.files.durable import sync, sync_names
from dvg_jax.files.partial import OLD, clear_partials, hidden, remove


@dataclass
class _Batch:
    """Collect what :func:`together` finishes: temporary and final names, and folders created on the way."""

    moves: list[tuple[Path, Path]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


_batch: ContextVar[_Batch | None] = ContextVar("batch", default=None)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, with its suffixes; it takes the name on success only.

    On failure it is removed. Creates the parent folder. A reader sees the old file or the new one, never a part, also
    after a loss of power. What processes that have ended left in the folder is cleared. Within :func:`together` the
    name is taken at the end of that block. An OSError names ``path``.
    """
    with _naming(path), _staged(path) as temporary:
        yield temporary


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; on success it takes the name, on failure it goes away.

    Raises UserError where ``path`` is a file or a folder that is not empty: old and new files are never mixed.
    """
    check_free(path)
    path = Path(os.path.realpath(path))  # a folder cannot replace a link
    with _naming(path), _staged(path) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def together(stale: Iterable[Path] = ()) -> Iterator[list[Path]]:
    """Give all files and folders that the block writes their names at its end, in one short sequence, or none.

    On any failure, Ctrl-C included, the previous state is restored. Files of ``stale`` that exist and that the block
    does not write are removed; the yielded list contains them once the block is over. Folders take their names last:
    where one is, no other is written, so that of a killed run would be in the way of the same run again.
    """
    batch, removed = _Batch(), list[Path]()
    token = _batch.set(batch)
    try:
        yield removed
        written = {_place(path) for _, path in batch.moves}
        left = [path for path in dict.fromkeys(stale) if os.path.lexists(path) and _place(path) not in written]
        _commit(sorted(batch.moves, key=lambda move: move[0].is_dir()), left)
        removed += left
        batch.folders.clear()
    finally:
        _batch.reset(token)
        for temporary, _ in batch.moves:
            remove(temporary)
        _remove_empty(batch.folders)


def removal_notes(removed: Iterable[Path]) -> list[str]:
    """Return a line about each file that :func:`together` has removed."""
    return [f"removed {path} of an earlier run" for path in removed]


def check_free(path: Path) -> None:
    """Raise UserError if ``path`` is a file or a folder that is not empty."""
    if os.path.exists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UserError(f"{path} is there already; allowed: a new or an empty folder")


def missing_folders(path: Path) -> list[Path]:
    """Return the folders that creating ``path`` creates, itself included, the outermost first."""
    return [place for place in (*reversed(path.parents), path) if not place.exists()]


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises OSError, with the true reason where a file is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """Yield the temporary name; its content takes the name of ``path``, now or at the end of the batch."""
    batch, temporary, kept = _batch.get(), hidden(path), False
    if batch is not None:
        batch.folders += missing_folders(path.parent)
    make_folder(path.parent)
    clear_partials(path.parent)
    remove(temporary)  # a container's processes have the numbers of those of its last run
    try:
        yield temporary
        sync(temporary)
        if batch is not None:
            batch.moves.append((temporary, path))
        elif temporary.is_dir():
            _commit([(temporary, path)], [])
        else:
            os.replace(temporary, path)
            sync_names(path.parent)
        kept = True
    finally:
        if not kept:
            remove(temporary)


def _commit(moves: list[tuple[Path, Path]], stale: list[Path]) -> None:
    """Rename every ``(temporary, final)`` and remove ``stale``; undo all of it if one step fails."""
    with ExitStack() as undo:
        for temporary, path in moves:
            _put_aside(path, undo)
            os.replace(temporary, path)
        for path in stale:
            undo.callback(_put_back, path)
            os.rename(path, hidden(path, OLD))
        undo.pop_all()
    changed = [*(path for _, path in moves), *stale]
    for folder in dict.fromkeys(path.parent for path in changed):
        sync_names(folder)
    for path in changed:
        remove(hidden(path, OLD))


def _put_aside(path: Path, undo: ExitStack) -> None:
    """Store an existing ``path`` under a second name, and let ``undo`` restore it."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()  # fails if the folder is no longer empty
        undo.callback(path.mkdir)
    elif os.path.lexists(path):
        undo.callback(_put_back, path)
        try:
            os.link(path, hidden(path, OLD), follow_symlinks=False)
        except (OSError, NotImplementedError):
            os.rename(path, hidden(path, OLD))  # no links on this file system; the name is free for a moment
        return
    undo.callback(remove, path)


def _put_back(path: Path) -> None:
    old = hidden(path, OLD)
    if not os.path.lexists(old):
        return
    if os.path.lexists(path) and os.path.samestat(old.lstat(), path.lstat()):
        old.unlink()  # two names of one file: it was not replaced
    else:
        os.replace(old, path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name ``path`` in an OSError: a full disk's error has no file name, others have a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or ".partial-" in str(error.filename)):
            error.filename = str(path)
            if error.filename2 is not None:
                del error.filename2
        raise


def _place(path: Path) -> Path:
    """Return one spelling of a name in a folder. A link is not followed: its target is another place."""
    return Path(os.path.realpath(path.parent)) / path.name


def _remove_empty(folders: list[Path]) -> None:
    """Remove the empty ones of some folders, which are listed the outermost first."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()
