"""A run of five stages that is stopped again and again, at random moments, ends as an uninterrupted one does.

Half of the signals come while a stage ends: within a second after its last step was logged, its validation drawn, or
its model written. The others come at any time from the start of the process.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import chex
import pytest

from dvg_jax.config import PAPER_STAGES
from dvg_jax.training.checkpoint import load_model
from tests.processes import one_device

ROOT = Path(__file__).parents[2]
SIGNALS = 30
STEPS = 12  # as tests/tiny.py has it
DEADLINE_S = 300
ANY_TIME_S = 16.0
"""A whole run takes this long with a warm cache, on two quiet cores; JAX is imported after 3 s."""


class Run:
    """Run ``train.py`` on all stages, in a process of its own on one device."""

    def __init__(self, workdir: Path) -> None:
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable, "train.py", "--config", "tests/tiny.py", "--workdir", str(workdir),
                "--config.log.evaluate_every=5",
            ],
            cwd=ROOT, env=one_device(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait(self, moment, seconds: float) -> bool:
        """Wait for a moment, and some seconds more; False where the run ends before."""
        while not moment():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < self.begun + DEADLINE_S
            time.sleep(0.01)
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.01)
        return self.process.poll() is None

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said


def steps_logged(stage: Path) -> int:
    try:
        lines = (stage / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
    except FileNotFoundError:
        return 0


def ending(chance: random.Random, workdir: Path):
    """Choose a moment at the end of the first stage that has no model yet, and return it with its name."""
    stage = next((workdir / name for name in PAPER_STAGES if not (workdir / name / "model").is_dir()), None)
    if stage is None:
        return None, ""
    moments = {
        "last step": lambda: steps_logged(stage) == STEPS,
        "validation": lambda: (stage / "pictures" / f"step_{STEPS:07d}.png").exists(),
        "model": lambda: (stage / "model").is_dir(),
    }
    name = chance.choice([name for name, moment in moments.items() if not moment()] or ["model"])
    return moments[name], name


def assert_same(workdir: Path, whole: Path) -> None:
    for name in PAPER_STAGES:
        (a, facts), (b, expected) = (load_model(folder / name / "model") for folder in (workdir, whole))
        assert facts == expected
        chex.assert_trees_all_equal(a, b)
        logs = [(folder / name / "metrics.jsonl").read_text() for folder in (workdir, whole)]
        assert logs[0] == logs[1]


@pytest.mark.slow
def test_signals_at_random_moments(tmp_path):
    chance, told, finished = random.Random(14), Counter(), 0
    whole = tmp_path / "whole"
    assert Run(whole).end()[0] == 0
    workdir = tmp_path / "0"
    while sum(told.values()) < SIGNALS:
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        if sum(told.values()) % 2:
            moment, name = ending(chance, workdir)
            seconds = chance.uniform(0, 1)
        else:
            moment, name, seconds = lambda: True, "any time", chance.uniform(0, ANY_TIME_S)
        run = Run(workdir)
        sent = moment is not None and run.wait(moment, seconds)
        trained = (workdir / PAPER_STAGES[-1] / "model").is_dir()
        if sent:
            run.process.send_signal(number)
        code, said = run.end()
        print(f"{name}, {seconds:.2f} s: {number.name if sent else 'none'} -> {code}", flush=True)
        if code == 0:
            # No signal was sent, or the process had exited already: nothing was noted, nothing had to stop.
            assert trained or not sent
            assert "finishes" not in said
        else:
            told[name, number.name] += 1
            if code == -number:
                # The signal came before Python had begun or after it had ended; a shell gives 128 + the signal all the
                # same.
                assert "finishes" not in said
            else:
                assert code == 128 + number, said
                assert "Traceback" not in said
        if code == 0:
            assert_same(workdir, whole)
            finished += 1
            workdir = tmp_path / str(finished)
    assert Run(workdir).end()[0] == 0
    assert_same(workdir, whole)
    print(f"{dict(told)}; {finished + 1} runs ended with the bits of one that nobody stopped")
