"""Do one step of the prepared run in this process: ``benchmarks.on_gpu`` starts it."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import surroundings
from benchmarks.on_gpu import equality, peers, programs
from benchmarks.on_gpu.plan import Shared
from dvg_jax import runtime
from dvg_jax.cli.entry import run_command

Results = Iterator[tuple[str, dict[str, Any]]]

TASKS: dict[str, Callable[[Shared], Results]] = {
    **programs.TASKS, "equal": equality.equal, "twice": equality.twice, **peers.TASKS
}  # fmt: skip
"""It maps each task's name in ``plan`` to the function that does it and yields results by name."""


def record(step: str, results: Results, file: Path) -> None:
    """Append to ``file`` a line with this machine's surroundings, and one with each result once it is there."""
    start = time.perf_counter()
    made_by = surroundings()
    del made_by["command"]  # the run has one of its own
    _append(file, {"step": step, "name": "surroundings", "at_s": 0.0, **made_by})
    for name, found in results:
        at_s = round(time.perf_counter() - start, 1)
        _append(file, {"step": step, "name": name, "at_s": at_s, **found})


def _append(file: Path, entry: dict[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(entry, default=float) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Do the step that the flags name."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("step", "task", "dtype"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--lines", type=Path, required=True)
    options = parser.parse_args(argv)
    runtime.check_platform()
    record(options.step, TASKS[options.task](Shared(options.size, options.dtype)), options.lines)


if __name__ == "__main__":
    run_command(main)
