"""Make Reconstructors one after another, as a server does: programs are compiled once, and memory stays as it is."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from tests.chaos import Result

ROOT = Path(__file__).parents[2]
COUNT, STEPS = 200, 2
MOST_MIB = 24
"""Memory may grow by so much in all; a Reconstructor that compiles takes 1.5 MiB for the tiny model."""

GRACE_S = 60
"""Importing and compiling once take so long at most after the time is over."""


@dataclass(frozen=True)
class Row:
    """Count the Reconstructors that were made, and what came after the first call of each sampler."""

    made: int
    compiled: int
    grown_mib: float

    @property
    def failures(self) -> tuple[str, ...]:
        """Return a line about each promise that did not hold."""
        again = (f"{self.compiled} programs were compiled again",) if self.compiled else ()
        return again + ((f"memory grew by {self.grown_mib:.0f} MiB",) if self.grown_mib > MOST_MIB else ())


def in_a_row(make: Callable[[], object], count: int = COUNT, until: float = math.inf) -> Row:
    """Make Reconstructors and call each once, with another key and the next sampler.

    Args:
      make: returns a Reconstructor.
      count: how many are made, unless ``until`` comes before.
      until: ``time.monotonic()``.
    """
    import jax
    import numpy as np

    from dvg_jax.diffusion.samplers import SAMPLERS

    made, compiled, first = 0, [], 0.0

    def listen(event: str, seconds: float, **facts: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(facts)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for sampler in islice(cycle(SAMPLERS), count):
            if made == len(SAMPLERS):
                compiled.clear()
                first = _resident_mib()
            if made > len(SAMPLERS) and time.monotonic() > until:
                break
            model = make()
            films = np.random.default_rng(made).random((len(model.dvg.angles), *model.dvg.geometry.detector_shape))
            model(films, model.dvg.angles, jax.random.key(made), STEPS, sampler)
            made += 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return Row(made, len(compiled), _resident_mib() - first)


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def attack(folder: Path, until: float) -> Result:
    """Make ``COUNT`` Reconstructors, or as many as there is time for, in a process of its own."""
    seconds = max(0.0, until - time.monotonic())
    command = [sys.executable, "-m", "tests.chaos.leak", str(seconds)]
    try:
        child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        return Result("leak", 1, 0, (f"no end after {seconds + GRACE_S:.0f} s",))
    if child.returncode:
        return Result("leak", 1, 0, (f"exit code {child.returncode}: {child.stderr.strip().splitlines()[-1:]}",))
    row = Row(**json.loads(child.stdout))
    return Result("leak", row.made, 0 if row.failures else row.made, row.failures)


def _main(seconds: float) -> None:
    until = time.monotonic() + seconds
    from dvg_jax import runtime

    runtime.set_up()
    from tests.untrained import reconstructor_of, untrained_variables

    variables = untrained_variables()
    print(json.dumps(asdict(in_a_row(lambda: reconstructor_of(variables), until=until))))


if __name__ == "__main__":
    _main(float(sys.argv[1]))
