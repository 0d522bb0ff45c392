"""Run the steps within a budget of seconds, and keep what each has found. Does not import JAX."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.on_gpu.plan import STEPS, TRAIN, Shared, command, environment, groups

GRACE_S = 20
"""A training is killed so many seconds after it was asked to stop, in which it saves its state. Others have none."""

POLL_S = 0.05
"""So many seconds lie between two looks at the steps that run."""

USUAL_S = 480
"""The limits of the steps are meant for a run of so many seconds; a longer run gives each step longer."""

LOG_END = 1500
"""So many characters of a failed step's log are kept with its results."""

METRICS = Path(TRAIN) / "ct_vqgan" / "metrics.jsonl"


class _Running(NamedTuple):
    """Hold a step's process, when it began, when it must end, where its lines begin, and its log."""

    child: "subprocess.Popen[bytes]"
    start: float
    limit: float
    offset: int
    log: Path


class Budget:
    """Run steps until the time is used up.

    Args:
      output: folder for the results.
      kept: folder for compiled programs, logs and the training.
      shared: what all steps share.
      seconds: for everything, from now on.
    """

    def __init__(self, output: Path, kept: Path, shared: Shared, seconds: float) -> None:
        # Steps run in folders of their own choice, so the paths must not depend on this one's.
        self.output, self.kept, self.shared = output.absolute(), kept.absolute(), shared
        self.start, self.end = time.perf_counter(), time.perf_counter() + seconds
        self.patience = max(seconds / USUAL_S, 1)
        self.surroundings: dict[str, Any] = {}
        self.results: dict[str, Any] = {**shared._asdict(), "seconds_allowed": seconds}
        self.lines = self.output / "on_gpu.jsonl"

    def run(self, names: Sequence[str]) -> Path:
        """Run the steps ``names`` in their order; return the file of results."""
        for folder in (self.output, self.kept):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.output / "on_gpu.json"
        for group in groups(list(names)):
            running: dict[str, _Running] = {}
            try:
                for name in group:
                    self._begin(name, running)
                self._finish(running)
            finally:
                for process in running.values():
                    _kill(process.child)
            for name in group:
                print(name, json.dumps(self.results[name]), flush=True)
            self.results["seconds"] = round(time.perf_counter() - self.start, 1)
            made_by = {"command": f"python -m benchmarks.on_gpu {' '.join(sys.argv[1:])}".strip()}
            path.write_text(json.dumps(self.surroundings | made_by | {"results": self.results}, indent=2) + "\n")
        return path

    def _begin(self, name: str, running: dict[str, _Running]) -> None:
        """Start a step, or record that it does not fit into the seconds that are left."""
        step, left = STEPS[name], self.end - time.perf_counter()
        if name == TRAIN:
            left -= GRACE_S
        if left < step.least:
            self.results[name] = {"skipped": f"needs {step.least} s, {max(left, 0):.0f} s are left"}
            return
        log, offset = self.kept / f"{name}.log", self.lines.stat().st_size if self.lines.exists() else 0
        with log.open("w") as stream:
            child = subprocess.Popen(
                command(name, self.shared, self.kept, self.lines),
                env=environment(name, self.kept), stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        running[name] = _Running(child, time.perf_counter(), min(step.limit * self.patience, left), offset, log)

    def _finish(self, running: dict[str, _Running]) -> None:
        """Wait for each step until it ends or is late, and record what it found."""
        waiting = dict(running)
        while waiting:
            for name, process in list(waiting.items()):
                if process.child.poll() is not None or time.perf_counter() > process.start + process.limit:
                    self.results[name] = self._end(name, process)
                    del waiting[name]
            time.sleep(POLL_S)

    def _end(self, name: str, process: _Running) -> dict[str, Any]:
        """Return what a step found, its seconds and, if it failed, why; end it if it is late."""
        code = process.child.poll()
        if code is None:
            if name == TRAIN:
                _stop(process.child)
            _kill(process.child)
        found = self._trained() if name == TRAIN else self._lines_of(name, process.offset)
        found["seconds"] = round(time.perf_counter() - process.start, 1)
        log = process.log.read_text(errors="replace").strip()
        if code is None and name != TRAIN:
            found["failed"] = f"not done within {process.limit:.0f} s"
        elif code:
            found["failed"] = (log.splitlines() or [f"exit code {code}"])[-1]
        if "failed" in found:
            found["log"] = log[-LOG_END:]
        return found

    def _lines_of(self, name: str, offset: int) -> dict[str, Any]:
        """Return what a step has written since ``offset``, and keep the surroundings that it tells."""
        found = {}
        content = self.lines.read_bytes()[offset:].decode() if self.lines.exists() else ""
        for line in content.splitlines(keepends=True):
            if not line.endswith("\n"):  # the process was ended as it wrote
                continue
            entry = json.loads(line)
            if entry.pop("step") != name:
                continue
            result = entry.pop("name")
            if result == "surroundings":
                entry.pop("at_s")
                self.surroundings = entry
            else:
                found[result] = entry
        return found

    def _trained(self) -> dict[str, Any]:
        """Return the first and the last line of the training's metrics, and keep the file with the results."""
        file = self.kept / METRICS
        if not file.exists():
            return {}
        content = file.read_text()
        (self.output / "train_metrics.jsonl").write_text(content)
        lines = [json.loads(line) for line in content.splitlines()]
        return {"first": lines[0], "last": lines[-1]} if lines else {}


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask a process to save its work and end."""
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        return


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it has started, such as PyTorch's compilers."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
