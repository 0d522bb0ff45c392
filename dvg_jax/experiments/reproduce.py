"""Train what the tables need, measure it and write the report; what is finished is not repeated."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax.config import stage_settings
from dvg_jax.evaluate.cases import Procedure
from dvg_jax.experiments.catalogue import Row
from dvg_jax.experiments.measure import (
    CaseSet,
    Result,
    Subject,
    codec_of,
    measure_subject,
    read_result,
    result_path,
    trained_run,
    yardstick_name,
    yardstick_of,
)
from dvg_jax.experiments.plan import Job, Run, plan_run, rows_named
from dvg_jax.files.atomic import replacing
from dvg_jax.methods.base import CODEC
from dvg_jax.methods.yardsticks import YARDSTICKS
from dvg_jax.training.distributed import leave_if_asked
from dvg_jax.training.run import alone_in, train
from dvg_jax.training.stop import StopRequest
from dvg_jax.training.workdir import check_owner, finished_steps

Results = dict[tuple[str, str], Result]
"""Measurements by the names of subject and test set."""


@dataclass(frozen=True)
class Experiment:
    """Hold the rows to reproduce, each with its run, and their working folder.

    Attributes:
      workdir: gets ``jobs`` (a folder a trained stage) and ``results``.
      runs: by row; rows with equal runs share them.
    """

    base: ConfigDict
    workdir: Path
    runs: dict[Row, Run]
    tests: tuple[CaseSet, ...]
    procedure: Procedure

    @property
    def jobs(self) -> dict[str, Job]:
        """Return all jobs by name, in the order of training."""
        return {job.name: job for run in self.runs.values() for job in run.jobs}


def plan(base: ConfigDict, workdir: Path, rows: Iterable[Row]) -> dict[Row, Run]:
    """Return the run of each row."""
    return {row: plan_run(base, workdir / "jobs", row) for row in rows}


def reproduce(experiment: Experiment, say: Callable[[str], None]) -> Results:
    """Train and measure all that is missing.

    Returns:
      All measurements, new and earlier ones.

    Raises:
      SystemExit: SIGINT or SIGTERM asked to stop, at any time; the same call goes on from there.
      UserError: another run is at work in the folder.
    """
    with StopRequest() as stop, alone_in(experiment.workdir, "experiments"):
        return _reproduce(experiment, say, stop)


def _reproduce(experiment: Experiment, say: Callable[[str], None], stop: StopRequest) -> Results:
    folder = experiment.workdir / "jobs"
    clock = Clock(experiment, folder, say)
    results: Results = {}

    def look() -> None:
        leave_if_asked(stop, "experiments")

    def measured(names: tuple[str, ...], trained: dict[str, int], subject: Callable[[], Subject]) -> None:
        loaded, stored = None, experiment.workdir / "results"
        for test in experiment.tests:
            found = {
                name: read_result(result_path(stored, name, test.name), trained, experiment.procedure) for name in names
            }
            if None in found.values():
                say(f"measuring {names[0]} on {test.name}")
                loaded = loaded or subject()
                look()
                found |= measure_subject(loaded, test, experiment.procedure, stored, look)
            results.update({(name, test.name): result for name, result in found.items() if result is not None})

    for angles in dict.fromkeys(row.angles for row in experiment.runs if row.target is None):
        for title in YARDSTICKS:
            names = rows_named(yardstick_name(title, angles), ("films",))
            measured(names, {}, partial(yardstick_of, title, angles, experiment.base))
    for run in {run.name: run for run in experiment.runs.values()}.values():
        for job in run.jobs:
            look()
            clock.train(job)
            if job.name == "ct_vqgan":
                measured((CODEC,), {job.name: job.volumes}, partial(codec_of, job, folder))
        measured(run.rows, run.volumes, partial(trained_run, run, folder))
    return results


class Clock:
    """Train job after job, and print progress and an estimate of the remaining time."""

    def __init__(self, experiment: Experiment, folder: Path, say: Callable[[str], None]) -> None:
        self.jobs, self.folder, self.say = experiment.jobs, folder, say
        self.seconds = {name: _read_seconds(folder / name) for name in self.jobs if self._finished(name)}

    def _finished(self, name: str) -> bool:
        job = self.jobs[name]
        check_owner(job.config, self.folder / name)
        steps = stage_settings(job.config, job.config.stage).train.steps
        return finished_steps(job.config, self.folder / name, job.config.stage) >= steps

    def train(self, job: Job) -> None:
        """Train one job, or go on with it, unless it is finished."""
        if job.name in self.seconds:
            return
        place = f"[{len(self.seconds) + 1} of {len(self.jobs)}]"
        self.say(f"{place} {job.name}: {job.volumes} training CTs{self._left()}")
        start = time.perf_counter()
        train(job.config, self.folder / job.name)
        self.seconds[job.name] = time.perf_counter() - start
        with replacing(_seconds_file(self.folder / job.name)) as part:
            part.write_text(json.dumps({"seconds": self.seconds[job.name]}) + "\n", encoding="utf-8")

    def _left(self) -> str:
        """Estimate the remaining time from jobs of the same stage or, without any, from all jobs."""
        rates: dict[str, list[float]] = {}
        for name, seconds in self.seconds.items():
            if seconds is not None:
                rates.setdefault(self.jobs[name].config.stage, []).append(seconds / self.jobs[name].volumes)
        if not rates:
            return ""
        every = [r for rs in rates.values() for r in rs]
        left = 0.0
        for name, job in self.jobs.items():
            if name not in self.seconds:
                known = rates.get(job.config.stage, every)
                left += job.volumes * sum(known) / len(known)
        return f"; training takes about {left / 60:.0f} more minutes"


def _seconds_file(folder: Path) -> Path:
    return folder / "seconds.json"


def _read_seconds(folder: Path) -> float | None:
    """Read the seconds that a finished job took; None where they are unknown, as after ``train.py``."""
    path = _seconds_file(folder)
    return json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else None
