"""Our networks beside the same ones in plain PyTorch, in one run, on the CPU or on the GPU if there is one.

    python -m benchmarks.networks [--size demo small] [--only "unet step" ...] [--repeats 7]

Every contestant gets the same weights and inputs. What its first run comes to (output; loss, gradients, codebook) must
equal PyTorch's eager float32 before anything is timed. ``first`` is the first run, compilation included; ``peak_gib``
is what a run needs above weights and optimiser, at its peak: on a CPU by the resident set, on a GPU by PyTorch's
counter and by XLA's analysis of the compiled program. Sizes are those of ``network_cases.SIZES``; on a GPU
``small`` and ``paper`` unless asked. On a GPU both libraries use TF32 for float32.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU is shared with PyTorch

import jax
import numpy as np

from benchmarks.common import RESULTS, save, side_by_side
from dvg_jax.cli import run
from dvg_jax.errors import UserError

try:
    import torch

    from benchmarks.network_cases import CASES, SIZES, Contestant
    from benchmarks.torch_peer.training import Manner
except ImportError:
    torch = None

PEER = "torch eager"

TOLERANCE = {"cpu": 1e-3, "gpu": 2e-2}
"""Largest relative rms difference of float32 contestants. On a GPU TF32 keeps 10 bits. bfloat16's are only recorded."""

SLOW = 0.5
"""Seconds of a run from which on one warm-up a round is enough."""


def contestants(case: Any, device: str) -> dict[str, Callable[[], "Contestant"]]:
    """How each is made, by name; the peer that all are compared with comes first."""
    return {
        PEER: lambda: case.theirs(Manner(device)),
        "dvg_jax": lambda: case.ours("float32"),
        "dvg_jax bfloat16": lambda: case.ours("bfloat16"),
        "torch channels_last_3d": lambda: case.theirs(Manner(device, channels_last=True)),
        "torch bfloat16": lambda: case.theirs(Manner(device, half=True)),
        "torch.compile": lambda: case.theirs(Manner(device, compiled=True)),
    }


class TooLong(Exception):
    """Compilation went over its limit."""


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise :class:`TooLong` in here after so many seconds."""

    def stop(*_: Any) -> None:
        raise TooLong(f"more than {seconds} s of compilation")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contest(case: Any, device: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every contestant's figures by name; one that cannot run has the reason instead."""
    found: dict[str, Any] = {}
    runs: dict[str, Callable[[], Any]] = {}
    reference: dict[str, np.ndarray] = {}
    for name, make in contestants(case, device).items():
        try:
            with limit(options.compile_limit) if name == "torch.compile" else contextlib.nullcontext():
                entrant, first = _first(make)
        except Exception as error:  # whatever a compiler or a device may say
            if name in (PEER, "dvg_jax"):
                raise
            found[name] = f"not run: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            continue
        figures = entrant.figures()
        reference = reference or figures
        apart = {what: _apart(figures[what], reference[what]) for what in reference}
        if "bfloat16" not in name and max(apart.values()) > TOLERANCE[jax.default_backend()]:
            raise SystemExit(f"{name} is not equal to {PEER}: {apart}")
        found[name] = {"first": first, "peak_gib": _peak(entrant.run, device, name), "difference": apart}
        runs[name] = entrant.run
    round_s = sum(_seconds(r) for r in runs.values())
    warm_ups = 1 if round_s > SLOW * len(runs) else 3
    repeats = int(np.clip(options.budget / (round_s * (1 + warm_ups)), 3, options.repeats))
    for name, seconds in side_by_side(runs, repeats, warm_ups).items():
        found[name] |= {key: seconds[key] for key in ("median", "fastest", "slowest")}
    return found | {"repeats": repeats}


def _first(make: Callable[[], "Contestant"]) -> tuple["Contestant", float]:
    entrant = make()
    return entrant, _seconds(entrant.run)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def _peak(function: Callable[[], Any], device: str, name: str) -> float | None:
    """GiB that a run needs above what is held between runs."""
    if device == "cuda":
        if name.startswith("dvg_jax"):
            return None  # known from the compiled program, see ``_temporary``
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return (torch.cuda.max_memory_allocated() - held) / 2**30
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


def table(results: dict[str, Any]) -> str:
    """Markdown: a row a contestant."""
    lines = [
        "| task | contestant | ms | times as fast as PyTorch eager | first run, s | peak, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for case, found in results.items():
        for name, f in found.items():
            if isinstance(f, str):
                lines.append(f"| {case} | {name} | {f} | | | |")
            elif isinstance(f, dict):
                ratio = found[PEER]["median"] / f["median"]
                peak = "" if f["peak_gib"] is None else f"{f['peak_gib']:.2f}"
                lines.append(f"| {case} | {name} | {1000 * f['median']:.1f} | {ratio:.2f} | {f['first']:.1f} | {peak} |")
    return "\n".join(lines)


def _device() -> str:
    """``cpu`` or ``cuda``: where both libraries run."""
    gpus = jax.default_backend() == "gpu", torch.cuda.is_available()
    if gpus[0] != gpus[1]:
        raise UserError(f"a GPU is seen by JAX: {gpus[0]}, by PyTorch: {gpus[1]}; allowed: by both or neither")
    if all(gpus):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return "cuda" if all(gpus) else "cpu"


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    if torch is None:
        raise UserError('PyTorch is missing; allowed: pip install ".[bench]"')
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", choices=tuple(SIZES))
    parser.add_argument("--only", nargs="*", choices=tuple(CASES), help="these alone; other figures in the file stay")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=60, help="seconds a case; fewer repeats, at least 3, beyond")
    parser.add_argument("--compile_limit", type=int, default=120, help="seconds that torch.compile may take")
    options = parser.parse_args(argv)
    device = _device()
    sizes = options.size or (("small", "paper") if device == "cuda" else ("demo", "small"))
    name = f"networks_{jax.default_backend()}"
    before = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(before.read_text())["results"] if before.exists() else {}
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # first runs compile
        for size in sizes:
            for case in options.only or CASES:
                key = f"{case}, {size}"
                measured[key] = results[key] = contest(CASES[case](SIZES[size]), device, options)
                path = save(name, results)
    print(table(measured))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    run(main)
