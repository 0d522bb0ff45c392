"""Being asked to stop: finish the step, save, leave."""

import signal
from types import FrameType
from typing import Self


class StopRequest:
    """While entered, SIGTERM and SIGINT are noted instead of killing; a second signal of the kind kills as usual.

    Handlers can be set in the main thread only; elsewhere nothing is caught.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                return self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
