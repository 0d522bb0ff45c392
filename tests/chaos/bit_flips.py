"""Flip single bits of a model and of a checkpoint: each damage is refused, or changes no number that is used."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from dvg_jax.errors import UserError
from dvg_jax.shapes import Variables
from dvg_jax.training.checkpoint import load_model
from dvg_jax.training.run import train
from tests.chaos import Result
from tests.tiny import get_config

SEED, FLIPS, STAGE = 18, 100, "ct_vqgan"


def attack(folder: Path, until: float) -> Result:
    """Flip one bit after another, in the model's files and in those of the training's last checkpoint by turns.

    Args:
      folder: for all files.
      until: value of ``time.monotonic()`` at which no new flip begins; there is one of each at least.
    """
    workdir, longer = folder / "run", folder / "longer"
    _train(workdir)
    shutil.copytree(workdir, longer)
    model, trained_on = _model(workdir), _train(longer, more=1)
    kinds: list[tuple[Path, Callable[[], Variables], Variables]] = [
        (workdir / STAGE / "model", lambda: _model(workdir), model),
        (_last_checkpoint(workdir), lambda: _go_on(workdir, folder / "on"), trained_on),
    ]
    chance, failed, refused, tried = random.Random(SEED), [], 0, 0
    while tried < FLIPS and (tried < len(kinds) or time.monotonic() < until):
        place, use, right = kinds[tried % 2]
        tried += 1
        with _flipped(chance, place) as where:
            try:
                found = use()
            except UserError:
                refused += 1
                continue
            except Exception as error:
                failed.append(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
                continue
        if not _equal(found, right):
            failed.append(f"{where}: used")
    return Result(f"bit flips, {refused} refused", tried, tried - len(failed), tuple(failed))


@contextmanager
def _flipped(chance: random.Random, folder: Path) -> Iterator[str]:
    """Flip a random bit of all that the folder's files contain; yield its place, and restore it at the end."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = chance.choices(files, [file.stat().st_size for file in files])[0]
    whole = path.read_bytes()
    place, bit = chance.randrange(len(whole)), chance.randrange(8)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    try:
        yield f"{path.relative_to(folder.parent)}, byte {place}, bit {bit}"
    finally:
        path.write_bytes(whole)


def _train(workdir: Path, more: int = 0) -> Variables:
    config = get_config()
    config.stage = STAGE
    config[STAGE].train.steps += more
    train(config, workdir)
    return _model(workdir)


def _go_on(workdir: Path, copy: Path) -> Variables:
    """Train a copy one step further than its last checkpoint."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(workdir, copy)
    return _train(copy, more=1)


def _last_checkpoint(workdir: Path) -> Path:
    return max((workdir / STAGE / "checkpoints").iterdir(), key=lambda path: int(path.name))


def _model(workdir: Path) -> Variables:
    return load_model(workdir / STAGE / "model")[0]


def _equal(a: Variables, b: Variables) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))
