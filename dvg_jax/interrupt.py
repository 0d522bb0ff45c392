"""Turn Ctrl-C and SIGTERM into one exception that is not lost. Does not import JAX."""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SAME_REQUEST_S = 0.5
"""Signals so soon after the first must not interrupt the cleanup: ``timeout`` signals a process and then its group."""

_RETRY_S = 0.05


class Stopped(KeyboardInterrupt):
    """Say that a signal asked the command to stop; ``add_note`` adds lines for the user."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Return 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """While entered, SIGINT and SIGTERM raise :class:`Stopped` in the main thread.

    Python drops an exception that is raised while a destructor or a callback of the garbage collector runs, as XLA has
    them, and goes on; such a request is made again a moment later. A handler that somebody else has set stays, and so
    does a signal that the parent process has told this one to ignore. Only the main thread can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -float("inf")

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > _SAME_REQUEST_S:
            raise Stopped(number)

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        nonlocal last
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Orbax's threads report this after a failed write, which is reported anyway.
            if str(unraisable.exc_value) != "Event loop is closed":
                report(unraisable)
            return
        number = unraisable.exc_value.number if isinstance(unraisable.exc_value, Stopped) else signal.SIGINT
        last = -float("inf")
        again = threading.Timer(_RETRY_S, _thread.interrupt_main, (number,))
        again.daemon = True
        again.start()

    report, sys.unraisablehook = sys.unraisablehook, dropped
    handlers = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    }
    try:
        yield
    finally:
        if sys.unraisablehook is dropped:
            sys.unraisablehook = report
        for number, handler in handlers.items():
            signal.signal(number, handler)
