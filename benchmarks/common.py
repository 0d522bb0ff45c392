"""How things are timed and what is kept with a figure."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "torch", "nanodrr", "diffdrr")

REST_S = 0.2
"""Between contestants: OpenMP's threads, PyTorch's among them, go on spinning for a while after their work is done."""

WARM_UPS = 3
"""The first two runs after a rest are up to twice as slow as those that follow."""


def side_by_side(
    contestants: dict[str, Callable[[], Any]], repeats: int, warm_ups: int = WARM_UPS
) -> dict[str, dict[str, float]]:
    """Seconds of each contestant: first call, median, fastest and slowest of ``repeats`` rounds.

    In every round each contestant runs ``warm_ups`` times before the run that counts, so that a busy moment of the
    machine hits all alike and nobody starts from another's caches. A contestant returns only when its work is done.
    """
    times: dict[str, list[float]] = {name: [seconds_of(function)] for name, function in contestants.items()}
    for _ in range(repeats):
        for name, function in contestants.items():
            time.sleep(REST_S)
            for _ in range(warm_ups):
                function()
            times[name].append(seconds_of(function))
    return {
        name: {
            "first": seconds[0],
            "median": statistics.median(seconds[1:]),
            "fastest": min(seconds[1:]),
            "slowest": max(seconds[1:]),
        }
        for name, seconds in times.items()
    }


def seconds_of(function: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def finished(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A JAX call that waits for its result."""
    return lambda: jax.block_until_ready(function(*arguments))


def surroundings() -> dict[str, Any]:
    """Device, versions, date and command."""
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if name in installed},
        "date": datetime.date.today().isoformat(),
        "command": f"python -m benchmarks.{_module(Path(sys.argv[0]))} {' '.join(sys.argv[1:])}".strip(),
    }


def save(name: str, results: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``results`` with their surroundings to ``NAME.json`` in ``folder``, ``benchmarks/results`` unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(surroundings() | {"results": results}, indent=2) + "\n")
    return path


def _module(script: Path) -> str:
    """Return the name by which a script is started; a package's is that of its folder."""
    return script.parent.name if script.stem == "__main__" else script.stem


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
