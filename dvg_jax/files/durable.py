"""Give written files and folders their names so that neither a reader, a kill nor a loss of power sees a part."""

import ctypes
import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

_AT_CURRENT_FOLDER = -100
_EXCHANGE = 2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_CANNOT_SYNC_FOLDER = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync(path: Path) -> None:
    """Write a file, or a folder with all that it contains, through to the disk.

    Without it a loss of power can leave the new name with nothing behind it: names and contents are written separately.
    Raises OSError where the disk refuses.
    """
    if path.is_symlink():
        return
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
        sync_names(path)
        return
    # Windows syncs only what is open for writing.
    _sync(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)


def sync_names(folder: Path) -> None:
    """Write the names in a folder through to the disk, where the system can."""
    if sys.platform == "win32":
        return
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDER:
            raise


def take_place(new: Path, path: Path, aside: Path) -> None:
    """Give the folder ``new`` the name ``path``; a folder that had it has the name ``new`` afterwards.

    Linux exchanges the names in one step. Elsewhere, and on file systems that cannot, a reader finds no ``path`` for a
    moment.

    Args:
      new: a complete folder, next to ``path``.
      path: a folder, or free.
      aside: a free name, for systems that cannot exchange names.
    """
    sync(new)
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        path.rename(aside)
        try:
            new.rename(path)
        except BaseException:
            aside.rename(path)
            raise
        aside.rename(new)
    sync_names(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_AT_CURRENT_FOLDER, os.fsencode(one), _AT_CURRENT_FOLDER, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        with suppress(OSError):
            os.close(descriptor)
