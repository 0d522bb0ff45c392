"""Let one process at a time work in a folder: the kernel releases the lock when its process ends in any way."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dvg_jax.errors import UserError

NAME = ".lock"

_TRIES = 100

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # Nobody may read a byte that Windows has locked, so it lies past the text.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Lock ``folder`` for this process while the block runs; ``what`` names the work, such as ``training``.

    An absent folder is created, and removed again if it is empty at the end. The lock is not reentrant: a second one in
    the same process is refused too. Of the processes of one distributed run only the first may take it. A file system
    without locks gives a warning on stderr.

    Raises:
      UserError: another process has the lock, or the folder cannot be made or written.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        descriptor = _acquire(folder, what)
    except OSError as error:
        _remove_empty(created)
        refused = f"{folder}: cannot be made or written ({error.strerror})"
        raise UserError(f"{refused}; allowed: a folder that this user may write") from error
    try:
        _sign(descriptor, what)
        yield
    finally:
        # The name is removed under the lock, so a process that opened the file meanwhile can notice. Windows keeps an
        # open file's name.
        with suppress(OSError):
            (folder / NAME).unlink()
        os.close(descriptor)
        _remove_empty(created)


def _acquire(folder: Path, what: str) -> int:
    """Return a locked descriptor of the folder's lock file, which processes that this one starts do not inherit."""
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process that just ended in the folder removed it
            continue
        try:
            _lock(descriptor)
        except BlockingIOError:
            holder, _, running = os.read(descriptor, 200).decode(errors="replace").partition(" ")
            os.close(descriptor)
            busy = f"another {running or what} is running in it (pid {holder or 'not known'})"
            raise UserError(f"{folder}: {busy}; allowed: one at a time") from None
        except OSError as error:
            risk = f"its file system has no locks ({error.strerror}), so a second {what} in it would go unnoticed"
            print(f"warning: {folder}: {risk}", file=sys.stderr)
            return descriptor
        if _has_name(descriptor, folder / NAME):
            return descriptor
        os.close(descriptor)
    raise UserError(f"{folder}: other processes keep coming and going in it; allowed: one {what} at a time")


def _has_name(descriptor: int, path: Path) -> bool:
    """Return True if the open file still has its name: its last holder may have removed it after we opened it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int, what: str) -> None:
    """Write pid and work of the lock's holder, for the message of a refused process."""
    with suppress(OSError):  # a full disk does not undo the lock
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()} {what}".encode())


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
