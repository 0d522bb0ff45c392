"""Turn Ctrl-C and SIGTERM into one exception that is not lost. Does not import JAX."""

import _thread
import atexit
import os
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
    """Let SIGINT and SIGTERM raise :class:`Stopped` in the main thread while the block runs.

    Python drops an exception that is raised while a destructor or a callback of the garbage collector runs, as XLA has
    them, and goes on; such a request is repeated a moment later. A handler that other code has set stays, and a signal
    that the parent process made this one ignore stays ignored. Only the main thread can set handlers. The earlier
    handlers are restored, unless the process is about to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last, leaving = -float("inf"), False
    atexit.unregister(_end_quietly)
    atexit.register(_end_quietly)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before <= _SAME_REQUEST_S:
            return
        if leaving:  # the cleanup is done, and the process only has to end
            os._exit(128 + number)
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
        again = threading.Timer(_RETRY_S, _send_main, (number,))
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
    except KeyboardInterrupt:
        leaving = True
        for number in handlers:  # Python's shutdown would restore the default, which loses the exit code
            atexit.register(signal.signal, number, signal.SIG_IGN)
        raise
    finally:
        if sys.unraisablehook is dropped:
            sys.unraisablehook = report
        for number, handler in handlers.items():
            if not leaving:
                signal.signal(number, handler)


def _send_main(number: int) -> None:
    """Send the main thread a signal: a real one where the system has them, which also interrupts its waiting."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _end_quietly() -> None:
    """Let Ctrl-C end a process that is about to end anyway: Python's handler would print where it was."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
