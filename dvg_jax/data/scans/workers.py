"""Call a function on many items in worker processes, so that an item that ends or stalls its process harms no other.

items --tasks--> a pipe for each worker --> results as they come, or Lost with the reason

A worker holds one task at a time, so the items that a dead one held are known. Only the parent ends workers: signals
that reach a whole group, as Ctrl-C and ``timeout`` send them, are for the parent.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

LIMIT_S = 900.0
"""A task that takes longer has stalled: the largest scan takes some minutes on a slow machine."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_THREADS = ("OPENBLAS", "MKL", "OMP")

Answer = list[Any] | Exception


@dataclass(frozen=True)
class Lost:
    """Stand for the result of an item; ``reason`` says what became of its worker, ``stalled`` that time was up."""

    reason: str
    stalled: bool = False


@dataclass(eq=False)
class _Worker:
    """Hold a process, the parent's end of its pipe, its task (places of items) and when that task must be done."""

    process: SpawnProcess
    pipe: Connection
    task: Sequence[int] = ()
    until: float = 0.0


class Workers:
    """Keep worker processes for a ``with`` block, one thread each; they start when there is work and end with it."""

    def __init__(self, count: int, set_up: Callable[[], None], limit_s: float = LIMIT_S):
        """Prepare workers without starting one.

        Args:
          count: largest number of processes.
          set_up: function that each process calls first.
          limit_s: longest time for one task in seconds.
        """
        self.count, self.set_up, self.limit_s = count, set_up, limit_s
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self._end(worker)

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], at_once: int = 1
    ) -> Iterator[tuple[int, Any | Lost]]:
        """Yield the place of every item and its result, or ``Lost``, in the order in which they are done.

        Items of a worker that died are tried once more, alone and after all others: where memory ran out, another
        worker's item may have taken it.

        Args:
          function: function of one item, importable by name.
          items: arguments.
          at_once: items of one task.

        Raises:
          Exception: whatever ``function`` raises.
        """
        places = range(len(items))
        tasks: list[Sequence[int]] = [places[start : start + at_once] for start in places[::at_once]]
        again: list[int] = []
        for task, found in self._answers(function, items, tasks, self.count):
            if not isinstance(found, Lost):
                yield from zip(task, found, strict=True)
            elif found.stalled and len(task) == 1:
                yield task[0], found
            else:
                again += task
        for (place,), found in self._answers(function, items, [(place,) for place in again], 1):
            yield place, found if isinstance(found, Lost) else found[0]

    def _answers(
        self, function: Callable[[Any], Any], items: Sequence[Any], tasks: Sequence[Sequence[int]], count: int
    ) -> Iterator[tuple[Sequence[int], list[Any] | Lost]]:
        waiting, busy = deque(tasks), list[_Worker]()
        while waiting or busy:
            while waiting and len(busy) < count:
                idle = next((worker for worker in self._workers if not worker.task), None)
                worker = idle or self._start()
                worker.task, worker.until = waiting.popleft(), time.monotonic() + self.limit_s
                busy.append(worker)
                with suppress(OSError):  # it has died, which its pipe says below
                    worker.pipe.send((function, [items[place] for place in worker.task]))
            left = min(worker.until for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], max(0.0, left))
            for worker in [one for one in busy if one.pipe in ready or one.until <= time.monotonic()]:
                busy.remove(worker)
                task, worker.task = worker.task, ()
                yield task, self._answer(worker) if worker.pipe in ready else self._stalled(worker)

    def _answer(self, worker: _Worker) -> list[Any] | Lost:
        try:
            answer: Answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1)  # it has closed its pipe, and is about to end by itself
            return Lost(f"its process ended by {self._end(worker)}")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _stalled(self, worker: _Worker) -> Lost:
        self._end(worker)
        return Lost(f"not done after {self.limit_s:g} s", stalled=True)

    def _start(self) -> _Worker:
        for library in _THREADS:
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.set_up), daemon=True)
        with _signals_held():
            process.start()
        theirs.close()  # so that the pipe ends with the worker
        self._workers.append(worker := _Worker(process, ours))
        return worker

    def _end(self, worker: _Worker) -> str:
        """End a worker, dead or alive, and return what ended it."""
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        code = worker.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "SIGKILL (was memory short? use fewer --jobs)"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextmanager
def _signals_held() -> Iterator[None]:
    """Block signals in the processes that the block starts, for ever, and in this one until its end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, set_up: Callable[[], None]) -> None:
    """Answer tasks until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where signals cannot be blocked
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up()
    while True:
        try:
            function, items = pipe.recv()
        except EOFError:
            return
        try:
            answer: Answer = [function(item) for item in items]
        except Exception as error:
            error.add_note(traceback.format_exc())  # where it happened is lost on the way
            answer = error
        pipe.send(answer)


def _end_with_parent() -> None:
    """End this process with its parent: a killed parent cannot stop it, and its task may take long."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
