"""Check a command's outputs before it computes anything: each can be written, and none overwrites an input."""

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from dvg_jax.errors import UserError
from dvg_jax.files.atomic import check_free, make_folder, missing_folders
from dvg_jax.files.headers import data_files
from dvg_jax.files.partial import hidden

Paths = Mapping[str, Iterable[Path]]
"""Paths by the flag or folder that the user gave for them."""

Named = tuple[str, Path]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_outputs(outputs: Paths, inputs: Paths, folders: Paths | None = None, replaced: Paths | None = None) -> None:
    """Refuse outputs that would overwrite an input or another output, or that cannot be written.

    Args:
      outputs: every file that may be written or removed; files derived from a flag's value are listed under that flag.
      inputs: files and folders that are read; nothing is written into such a folder.
      folders: folders that are created, so they must be absent or empty.
      replaced: folders that are replaced with all their content.

    Raises:
      UserError: an output collides with another path, also through links and other spellings.
    """
    created, written, read = _listed(folders), _listed(outputs), _listed(inputs)
    for _, path in created:
        check_free(path)
    for flag, path in written:
        if os.path.isdir(path):
            raise UserError(f"{flag} would write {path}, which is a folder; allowed: a file")
    _spare(read, [*written, *created], _listed(replaced))
    _check_distinct([*created, *written])
    check_room([(flag, path, 0) for flag, path in (*written, *created)])


def check_room(wanted: Iterable[tuple[str, Path, int]]) -> None:
    """Reserve room for files or folders of the given sizes, all at once, and release it again.

    Permissions say too little: root may write anywhere but on a read-only file system, and quotas are no permissions.

    Args:
      wanted: flag, path and size in bytes of each.

    Raises:
      UserError: one of them cannot be written; names flag, path and reason.
    """
    with ExitStack() as reserved:
        for flag, path, size in wanted:
            try:
                for folder in missing_folders(path.parent):
                    reserved.callback(_remove_folder, folder)
                make_folder(path.parent)
                _reserve(path, size, reserved)
            except OSError as error:
                room = f" of {size / 1e6:.1f} MB" if error.errno in _NO_ROOM else ""
                raise UserError(
                    f"{flag} would write {path}{room}, which cannot be done ({error.strerror}); "
                    "allowed: a place with room that can be written to"
                ) from error


def files_of(scan: Path) -> list[Path]:
    """Return a scan's path, and the files with its voxels where its header names them."""
    return [*data_files(scan)] if scan.is_file() else [scan]


def _spare(read: list[Named], written: list[Named], replaced: list[Named]) -> None:
    """Refuse outputs that would change an input."""
    for source, place in read:
        for flag, path in written:
            if _touches(path, place):
                inside = "" if _same(path, place) else f" into {place}"
                known = "" if inside or path == place else f" as {place}"
                raise UserError(
                    f"{flag} would write {path}{inside}, which {source} reads{known}; allowed: no input of this run"
                )
        for flag, path in replaced:
            if _touches(place, path):
                raise UserError(
                    f"{flag} would replace {path}, where {source} reads {place}; allowed: no input of this run"
                )


def _check_distinct(written: list[Named]) -> None:
    """Refuse outputs that are one file, or that lie in a folder that is an output itself."""
    taken: dict[str, str] = {}
    for flag, path in written:
        real = os.path.realpath(path)
        for name in (real, *map(str, Path(real).parents)):
            if name in taken:
                raise UserError(
                    f"{flag} would write {path}, and {taken[name]} writes {name}; allowed: different places"
                )
        taken[real] = flag


def _listed(named: Paths | None) -> list[Named]:
    return [(name, path) for name, paths in (named or {}).items() for path in paths]


def _reserve(path: Path, size: int, reserved: ExitStack) -> None:
    """Reserve ``size`` bytes of disk under the temporary name of ``path`` until ``reserved`` is closed."""
    probe = hidden(path, "partial-try")
    with probe.open("wb") as file:
        reserved.callback(probe.unlink)
        with suppress(FileNotFoundError):
            path.lstat()  # fails for a name that is too long: the temporary one is short
        if size:
            allocate(file.fileno(), size)


def allocate(file: int, size: int) -> None:
    """Reserve disk for the first ``size`` bytes of an open file, as far as its file system can.

    Raises:
      OSError: the disk has not so much room.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise  # other errors: this file system cannot reserve space


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # never created, or used by somebody by now
        folder.rmdir()


def _touches(path: Path, place: Path) -> bool:
    """Return True if writing ``path`` changes ``place``: they are the same, or ``path`` lies in that folder."""
    if _same(path, place):
        return True
    return os.path.isdir(place) and any(_same(parent, place) for parent in Path(os.path.realpath(path)).parents)


def _same(path: Path, place: Path) -> bool:
    try:
        return os.path.samefile(path, place)
    except OSError:  # one of them does not exist
        return os.path.realpath(path) == os.path.realpath(place)
