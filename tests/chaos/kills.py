"""Kill trainings at random moments and while they write: no model, no line of a log and no bit is lost."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dvg_jax.config import PAPER_STAGES
from dvg_jax.errors import UserError
from dvg_jax.training.checkpoint import load_model
from tests.chaos import Result, commands

SEED = 18
EVERY = ("--config.log.evaluate_every=5", "--config.log.checkpoint_every=2")
WRITES = (
    "*/.*model",
    "*/model",
    "*/checkpoints/*tmp*",
    "*/.partial*",
    "*/examples/*",
    "*/pictures/*",
    "config.json",
    "*/metrics.jsonl",
)
"""These names appear while something is written; half of the kills are aimed at one of them."""


def attack(folder: Path, until: float) -> Result:
    """Kill runs of a tiny training, each of which is gone on with until it ends, and compare with one left alone.

    Args:
      folder: for all files.
      until: value of ``time.monotonic()`` at which no new kill begins; there is one at least.
    """
    chance, failed, tried = random.Random(SEED), [], 0
    whole = folder / "whole"
    code, said = commands.run(commands.train(whole, *EVERY), folder)
    if code != 0:
        return Result("kills", 1, 0, (f"a run that nobody kills: exit code {code}, {said[-200:]}",))
    begun = time.monotonic()
    commands.run(commands.train(folder / "warm", *EVERY), folder)
    takes = time.monotonic() - begun
    workdir, number = folder / "0", 0
    while not tried or time.monotonic() < until:
        before = _state(workdir)
        process = commands.start(commands.train(workdir, *EVERY), folder)
        aim = chance.choice(WRITES) if tried % 2 else ""
        killed = _kill(process, _moment(workdir, aim, chance, takes))
        what = f"kill {tried} ({f'at {aim}' if aim else 'any time'})"
        if not killed:
            code, said = commands.end(process)
            failed += _named(f"run {number}", commands.fault(code, said), *_differences(workdir, whole))
            number += 1
            workdir = folder / str(number)
            continue
        commands.end(process)
        tried += 1
        failed += _named(what, *_lost(workdir, before))
    code, said = commands.run(commands.train(workdir, *EVERY), folder)
    failed += _named("the last run", commands.fault(code, said), *_differences(workdir, whole))
    return Result(f"kills, {number + 1} runs compared", tried, max(tried - len(failed), 0), tuple(failed))


def _named(what: str, *wrong: str) -> list[str]:
    """Return one line about an attack; none where nothing is wrong."""
    faults = [fault for fault in wrong if fault]
    return [f"{what}: {'; '.join(faults)}"] if faults else []


def _moment(workdir: Path, aim: str, chance: random.Random, takes: float) -> Callable[[], bool]:
    """Return what is true when the kill is due: some time has passed, or a name has appeared or changed."""
    if not aim:
        due = time.monotonic() + chance.uniform(0, takes)
        return lambda: time.monotonic() >= due
    first = _marks(workdir, aim)
    skip = chance.randrange(3)
    seen = [first]

    def due() -> bool:
        if (now := _marks(workdir, aim)) != seen[-1]:
            seen.append(now)
        return len(seen) > 1 + skip

    return due


def _marks(workdir: Path, aim: str) -> frozenset[tuple[str, int]]:
    found = set()
    for path in workdir.glob(aim):
        try:
            found.add((str(path), path.stat().st_mtime_ns))
        except OSError:  # gone meanwhile
            continue
    return frozenset(found)


def _kill(process, due: Callable[[], bool]) -> bool:
    """Kill the process when the moment is there; return False where it ends before."""
    while process.poll() is None:
        if due():
            commands.kill(process)
            return True
        time.sleep(0.002)
    return False


def _state(workdir: Path) -> dict[str, tuple[dict, list[str]]]:
    """Return facts of every model, and the lines of every log up to the stage's last step of a checkpoint."""
    found = {}
    for name in PAPER_STAGES:
        facts = load_model(workdir / name / "model")[1] if (workdir / name / "model").is_dir() else {}
        found[name] = facts, _lines(workdir / name)
    return found


def _lines(stage: Path) -> list[str]:
    steps = [int(path.name) for path in (stage / "checkpoints").glob("*") if path.name.isdigit()]
    log = stage / "metrics.jsonl"
    if not log.exists() or not steps:
        return []
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] < max(steps)]


def _lost(workdir: Path, before: dict[str, tuple[dict, list[str]]]) -> list[str]:
    """Say what a kill has cost: a model that was there, or lines of steps before the last checkpoint."""
    wrong = []
    try:
        after = _state(workdir)
    except (UserError, ValueError) as error:
        return [f"cannot be read any more: {error}"]
    for name, (facts, lines) in before.items():
        if facts and after[name][0] != facts:
            wrong.append(f"the model of {name} is another or gone")
        if after[name][1][: len(lines)] != lines:
            wrong.append(f"{name} lost lines of its log")
    return wrong


def _differences(workdir: Path, whole: Path) -> list[str]:
    """Say in what a run that was killed and gone on with differs from one that nobody killed."""
    wrong = []
    for name in PAPER_STAGES:
        try:
            (a, facts), (b, expected) = (load_model(place / name / "model") for place in (workdir, whole))
        except UserError as error:
            wrong.append(f"{name}: {error}")
            continue
        same = jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))
        logs = [(place / name / "metrics.jsonl").read_text() for place in (workdir, whole)]
        if not same or facts != expected or logs[0] != logs[1]:
            wrong.append(f"{name} does not end as in a run that nobody killed")
    wrong += [f"{path} was left behind" for path in sorted(workdir.rglob(".partial*"))]
    return wrong
