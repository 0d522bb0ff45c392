"""Start two commands in one folder at the same time: one works, the other is refused in a line, nothing is mixed."""

import random
import time
from pathlib import Path

from tests.chaos import Result, commands

SEED = 18


def attack(folder: Path, until: float) -> Result:
    """Start pairs of trainings, some tenths of a second apart, until the time is over.

    Args:
      folder: for all files.
      until: value of ``time.monotonic()`` at which no new pair is started; there is one at least.
    """
    chance, failed, tried = random.Random(SEED), [], 0
    while not tried or time.monotonic() < until:
        workdir = folder / str(tried)
        words = commands.train(workdir, "--config.stage=ct_vqgan")
        first = commands.start(words, folder)
        time.sleep(chance.choice([0, chance.uniform(0, 2)]))
        second = commands.start(words, folder)
        ends = [commands.end(process) for process in (first, second)]
        tried += 1
        wrong = [fault for code, said in ends if (fault := commands.fault(code, said))]
        # A pair may also run one after the other: the second then finds all trained.
        refused = sum(code == 2 for code, _ in ends)
        if refused == 2:
            wrong.append("both are refused")
        if refused == 1 and not any("allowed: one at a time" in said for _, said in ends):
            wrong.append("the refusal does not say why")
        if not (workdir / "ct_vqgan" / "model").is_dir() or (workdir / ".lock").exists():
            wrong.append("no model, or a lock that stays")
        failed += [f"pair {tried}: {'; '.join(wrong)}"] if wrong else []
    return Result("two at once", tried, tried - len(failed), tuple(failed))
