"""Name files that are being written, and clear those that a process has left which is no more.

.partial-<pid>.<machine>-<name>   <machine> stands for the host's name and the namespace of its process numbers

A name is cleared only if its machine is this one and no process has its number. So files of other hosts on a shared
disk stay, those of other containers too, and those whose number another process has by now, until that one ends.
"""

import hashlib
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

OLD = "partial-old"
"""The hidden name of a file that is being replaced begins so."""

_LONGEST_NAME = 200
"""A temporary name can contain a name of up to this many bytes: file systems allow 255."""

_NAME = re.compile(r"\.(?P<word>partial(?:-old|-try)?)-(?P<pid>\d+)\.(?P<machine>[0-9a-f]{6})-(?P<name>.+)", re.DOTALL)


def hidden(path: Path, word: str = "partial") -> Path:
    """Return a name in the folder of ``path`` that only this process uses, with the same suffixes."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + "".join(path.suffixes[-2:])
    return path.with_name(f".{word}-{os.getpid()}.{_machine()}-{name}")


def clear_partials(folder: Path) -> None:
    """Remove what processes of this machine that have ended left under hidden names in a folder.

    An old file that was put aside stays unless a file has its name: it may be the only one.
    """
    try:
        entries = os.listdir(folder)
    except OSError:  # a folder that may be written to and not listed
        return
    for entry in entries:
        found = _NAME.fullmatch(entry)
        if found is None or found["machine"] != _machine() or _runs(int(found["pid"])):
            continue
        if found["word"] != OLD or os.path.lexists(folder / found["name"]):
            with suppress(OSError):
                remove(folder / entry)


def remove(path: Path) -> None:
    """Remove a file or a folder with all its content, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:6]


def _runs(pid: int) -> bool:
    """Tell whether a process has this number; True where that cannot be told."""
    if sys.platform == "win32":
        return True  # asking would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
