"""Contestants on one task: made, seen to be equal, timed side by side."""

import argparse
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is shared with PyTorch

import jax
import numpy as np

from benchmarks.common import seconds_of, side_by_side
from dvg_jax.errors import UserError

try:
    import torch
except ImportError:
    torch = None

PEER = "torch eager"

TOLERANCE = {"cpu": 1e-3, "gpu": 2e-2}
"""Largest relative rms difference of float32 contestants. On a GPU TF32 keeps 10 bits. bfloat16's are only recorded."""

SLOW = 0.5
"""Seconds of a run from which on one warm-up a round is enough."""

Figures = dict[str, np.ndarray]
"""What a first run came to, by name, in our layout."""


class Contestant(NamedTuple):
    """``run`` returns when its work is done; ``figures`` tells what the first run came to."""

    run: Callable[[], Any]
    figures: Callable[[], Figures]


class TooLongError(Exception):
    """Compilation went over its limit."""


def device() -> str:
    """``cpu`` or ``cuda``: where both libraries run; on a GPU both multiply float32 in TF32."""
    if torch is None:
        raise UserError('PyTorch is missing; allowed: pip install ".[bench]"')
    ours, theirs = jax.default_backend() == "gpu", torch.cuda.is_available()
    if ours != theirs:
        raise UserError(f"a GPU is seen by JAX: {ours}, by PyTorch: {theirs}; allowed: by both or neither")
    if ours:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return "cuda" if ours else "cpu"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of ``contest``."""
    parser.add_argument("--contestants", nargs="*", help="these beside PyTorch eager; all unless given")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=60, help="seconds a task; fewer repeats, at least 3, beyond")
    parser.add_argument(
        "--compile_limit", type=int, default=120, help="seconds that torch.compile may take; 0: not run"
    )


def contest(makers: dict[str, Callable[[], Contestant]], options: argparse.Namespace) -> dict[str, Any]:
    """Figures of each contestant by name, the peer's first; one that cannot run has the reason instead.

    What the first runs come to must be equal before anything is timed; those in bfloat16 only tell how far they are.
    """
    found: dict[str, Any] = {}
    runs: dict[str, Callable[[], Any]] = {}
    reference: Figures = {}
    for name, make in makers.items():
        if options.contestants is not None and name not in (PEER, *options.contestants):
            continue
        try:
            entrant, first = _first(name, make, options.compile_limit)
        except Exception as error:
            # Whatever torch.compile or a device may say, the others are measured.
            if "compile" not in name:
                raise
            found[name] = f"not run: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            continue
        figures = entrant.figures()
        reference = reference or figures
        apart = {what: _apart(figures[what], reference[what]) for what in reference}
        if "bfloat16" not in name and max(apart.values()) > TOLERANCE[jax.default_backend()]:
            raise SystemExit(f"{name} is not equal to {PEER}: {apart}")
        found[name] = {"first": first, "peak_gib": _peak(entrant.run, name), "difference": apart}
        runs[name] = entrant.run
    round_s = sum(seconds_of(r) for r in runs.values())
    warm_ups = 1 if round_s > SLOW * len(runs) else 3
    repeats = int(np.clip(options.budget / (round_s * (1 + warm_ups)), 3, options.repeats))
    for name, seconds in side_by_side(runs, repeats, warm_ups).items():
        found[name] |= {key: seconds[key] for key in ("median", "fastest", "slowest")}
    return found | {"repeats": repeats}


def table(results: dict[str, Any]) -> str:
    """Markdown: a row a contestant of each task."""
    lines = [
        "| task | contestant | ms | times as fast as PyTorch eager | first run, s | peak, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for task, found in results.items():
        for name, f in found.items():
            if isinstance(f, str):
                lines.append(f"| {task} | {name} | {f} | | | |")
            elif isinstance(f, dict) and "median" in f:
                ratio = found[PEER]["median"] / f["median"]
                peak = "" if f["peak_gib"] is None else f"{f['peak_gib']:.2f}"
                lines.append(
                    f"| {task} | {name} | {1000 * f['median']:.1f} | {ratio:.2f} | {f['first']:.1f} | {peak} |"
                )
    return "\n".join(lines)


def _first(name: str, make: Callable[[], Contestant], compile_limit: int) -> tuple[Contestant, float]:
    """A contestant after its first run, and the seconds of that."""
    with _limit(compile_limit) if "compile" in name else contextlib.nullcontext():
        entrant = make()
        return entrant, seconds_of(entrant.run)


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise :class:`TooLongError` in here after so many seconds, or at once for 0."""

    def stop(*_: Any) -> None:
        raise TooLongError(f"more than {seconds} s of compilation")

    if not seconds:
        stop()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def _peak(function: Callable[[], Any], name: str) -> float | None:
    """GiB that a run needs at its peak above what is held between runs; None where nobody counts it.

    On a CPU by the process's high-water mark, on a GPU by each library's own counter. That of JAX cannot start anew, so
    there it is the highest so far, compilation's trials included, and only the first of ours is told.
    """
    if jax.default_backend() == "gpu" and name.startswith("torch"):
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return (torch.cuda.max_memory_allocated() - held) / 2**30
    if jax.default_backend() == "gpu":
        memory = jax.devices()[0].memory_stats() or {}
        first = name == "dvg_jax" and "peak_bytes_in_use" in memory
        return (memory["peak_bytes_in_use"] - memory["bytes_in_use"]) / 2**30 if first else None
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    held = _kib(status, "VmRSS")
    function()
    return (_kib(status, "VmHWM") - held) / 2**20


def _kib(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))
