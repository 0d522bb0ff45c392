"""Note a request to stop at once and obey it at the next place where nothing is lost.

    SIGINT, SIGTERM --> StopRequest.signal --look, after every part that can take time--> SystemExit(128 + signal)

A signal sets a flag and raises nothing: Python drops an exception that is raised in a garbage-collection callback,
which JAX has. This module does not import JAX, so that a program can note signals while it imports it.
"""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import ClassVar, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)

AGAIN_S = 1.0
"""Seconds after the first signal from which a second one ends the process at once.

An earlier one is the same request: ``timeout`` and several launchers send each signal twice.
"""


class StopRequest:
    """Note SIGTERM and SIGINT while entered; a second one, ``AGAIN_S`` seconds later, ends the process.

    One is in charge at a time: entering another inside it gives the outer one. When the outermost is left without an
    exception and a signal has been noted, it raises SystemExit, so that no request is lost. Handlers can be set in the
    main thread only; elsewhere nothing is caught.

    Args:
      of_program: the process only has to clean up afterwards. A signal then ends it at once, with its code; Python's
        own handler would raise KeyboardInterrupt there, which is printed and dropped.
    """

    _in_charge: ClassVar["StopRequest | None"] = None

    def __init__(self, of_program: bool = False) -> None:
        self.signal: int | None = None
        self._of_program = of_program
        self._before: dict[int, object] = {}
        self._watch: _Watch | None = None

    def leave(self, where: str) -> NoReturn:
        """Say how far the work is and exit with 128 + the signal (SIGTERM's where another process was signalled)."""
        print(f"\n{where}: stopped by signal; the same command goes on", file=sys.stderr)
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number

    def __enter__(self) -> "StopRequest":
        outer = StopRequest._in_charge
        if outer is not None:
            return outer
        if threading.current_thread() is threading.main_thread():
            StopRequest._in_charge = self
            self._watch = _Watch()
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if StopRequest._in_charge is not self:
            return
        StopRequest._in_charge = None
        if self._watch and self._of_program:
            self._watch.patient = False
        elif self._watch:
            for number, handler in self._before.items():
                # None: the handler was not set from Python.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
            self._watch.close()
        if kind is None and self.signal is not None:
            self.leave("all that was begun is finished")


class _Watch:
    """Receive signals in a thread while the main one computes, when Python's handlers have to wait.

    It confirms the first signal, perhaps minutes before a compilation ends, and ends the process on the second. Once it
    is not ``patient`` any more, the first ends the process too.
    """

    def __init__(self) -> None:
        self.patient = True
        self._hears, self._tells = socket.socketpair()
        self._tells.setblocking(False)
        self._before = signal.set_wakeup_fd(self._tells.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        first = 0.0
        while heard := self._hears.recv(1):
            number = heard[0]
            if number not in SIGNALS:
                continue
            if not self.patient:
                os._exit(128 + number)
            if not first:
                first = time.monotonic()
                name = signal.Signals(number).name
                _say(f"{name}: finishes what it is at, saves and stops; once more stops it at once")
            elif time.monotonic() - first >= AGAIN_S:
                _say("stopped at once; the same command goes on from what was saved")
                os._exit(128 + number)

    def close(self) -> None:
        """End the thread; signals go where they went before."""
        signal.set_wakeup_fd(self._before)
        self._tells.close()
        self._thread.join()
        self._hears.close()


def _say(line: str) -> None:
    # This bypasses Python's buffers, which the main thread may be using. A closed terminal is no reason to fail.
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
