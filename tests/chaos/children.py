"""Read files in child processes: tell a refusal in one line from a crash, a hang, a traceback and too much memory."""

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

READ, REFUSED = "read", "refused: "

_LONGEST_LINE = 2000
_IMPORTED = [
    "dvg_jax.config", "dvg_jax.data.films.read", "dvg_jax.data.manifest", "dvg_jax.data.scans.read",
    "dvg_jax.torch_import.release", "h5py", "tests.chaos.readers", "tests.chaos.torch_files",
]  # fmt: skip


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """Return ``REFUSED`` and the line that a refusal says, ``READ``, or what is wrong."""
    from dvg_jax.errors import UserError

    try:
        read(path)
    except UserError as error:
        line = str(error)
        if line.isprintable() and len(line) <= _LONGEST_LINE:
            return REFUSED + line
        return f"refused in {len(line)} characters, which are no printable line: {line[:200]!r}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__}: {str(error)[:200]!r} at {Path(place.filename).name}:{place.lineno}"
    return READ


class Children:
    """Start children from the server process, which has imported the readers.

    Args:
      megabytes: memory that a child may take beside what the readers and its file take.
      seconds: time for each file.
    """

    def __init__(self, megabytes: int, seconds: float = 30) -> None:
        self.context = multiprocessing.get_context("forkserver")
        # The first that asks starts the server for all.
        self.context.set_forkserver_preload(_IMPORTED)
        self.megabytes, self.seconds = megabytes, seconds

    def outcome(self, read: Callable[[Path], Any], path: Path, until: float) -> str | None:
        """Return :func:`outcome` of a child, or how it ended; None if ``until`` came before its time was over."""
        ours, theirs = self.context.Pipe(duplex=False)
        child = self.context.Process(target=_child, args=(theirs, read, path, self.megabytes))
        child.start()
        theirs.close()
        limit = min(self.seconds, until - time.monotonic())
        try:
            answer = ours.recv() if ours.poll(max(0.0, limit)) else ""
        except EOFError:
            child.join()
            return f"crash: exit code {child.exitcode}"
        finally:
            child.kill()
            child.join()
        return answer or (f"hang: more than {limit:g} s" if limit == self.seconds else None)


def _child(answer: Connection, read: Callable[[Path], Any], path: Path, megabytes: int) -> None:
    statement = Path("/proc/self/statm")
    if statement.exists():
        used = int(statement.read_text().split()[0]) * resource.getpagesize()
        limit = used + path.stat().st_size + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer.send(outcome(read, path))
