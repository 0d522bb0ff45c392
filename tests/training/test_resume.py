"""A run that is killed and started again ends with the same bits as one that was not.

``python -m tests.chaos --only kills`` kills more often, at random moments, and in all stages.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import pytest

from dvg_jax.training.checkpoint import load_model
from tests.processes import one_device

ROOT = Path(__file__).parents[2]
STEPS = 30
DEADLINE_S = 240


class Run:
    """``train.py`` on the first stage of the tiny config, in a process of its own on one device."""

    def __init__(self, workdir: Path, cache: Path) -> None:
        environment = one_device() | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        self.workdir, self.metrics = workdir, workdir / "ct_vqgan" / "metrics.jsonl"
        self.process = subprocess.Popen(
            [
                sys.executable, "train.py", "--config", "tests/tiny.py", "--workdir", str(workdir),
                "--config.stage=ct_vqgan", f"--config.ct_vqgan.train.steps={STEPS}", "--config.log.checkpoint_every=5",
            ],
            cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def step(self) -> int:
        try:
            lines = [line for line in self.metrics.read_text().splitlines() if line.endswith("}")]
        except FileNotFoundError:
            return 0
        return json.loads(lines[-1])["step"] if lines else 0

    def send(self, number: int, after_step: int) -> int:
        """Send a signal once a step has been logged and some step has been saved; gives the exit code."""
        end = time.monotonic() + DEADLINE_S
        while self.step() < after_step or not _last_checkpoint(self.workdir):
            assert time.monotonic() < end, "the run did not get there"
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.002)
        self.process.send_signal(number)
        return self.process.wait(timeout=DEADLINE_S)

    def finish(self) -> None:
        _, said = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, said


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    cache = folder / "cache"
    whole = folder / "whole"
    Run(whole, cache).finish()
    broken = folder / "broken"
    killed = Run(broken, cache)
    assert killed.send(signal.SIGKILL, 8) == -signal.SIGKILL
    # What it logged stays until the next run has begun: that one is signalled at a later step.
    asked = max(killed.step() + 2, _last_checkpoint(broken) + 7)
    code = Run(broken, cache).send(signal.SIGTERM, asked)
    saved_by_signal = _last_checkpoint(broken)
    Run(broken, cache).finish()
    return whole, broken, code, asked, saved_by_signal


def _last_checkpoint(workdir: Path) -> int:
    folder = workdir / "ct_vqgan" / "checkpoints"
    return max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=0)


def test_killed_and_stopped_gives_the_same_bits(runs):
    whole, broken, *_ = runs
    a, b = (load_model(workdir / "ct_vqgan" / "model")[0] for workdir in (whole, broken))
    chex.assert_trees_all_equal(a, b)


def test_every_step_is_logged_once(runs):
    _, broken, *_ = runs
    lines = [json.loads(line) for line in (broken / "ct_vqgan" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, STEPS + 1))


def test_sigterm_saves_before_it_leaves(runs):
    _, _, code, asked, after = runs
    assert code == 128 + signal.SIGTERM
    assert asked <= after < STEPS
