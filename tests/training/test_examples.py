"""Examples of frozen stages: the same training with and without keeping them, and never one that does not belong."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dvg_jax.config.build import build_dvg, build_source
from dvg_jax.data.sources import ArraySource, PhantomSource
from dvg_jax.errors import UserError
from dvg_jax.fingerprint import of_files
from dvg_jax.stages import build_stage
from dvg_jax.training.examples import MadeInStep
from dvg_jax.training.kept import Preparation, kept_examples, origin
from dvg_jax.training.loop import StageRun
from dvg_jax.training.workdir import load_stages
from tests.tiny import get_config

STEPS, CASES = 4, 6


class Counting:
    """In the place of the frozen stages: gives twice the CT, and counts the cases."""

    def __init__(self, width=1):
        self.name, self.width, self.cases = "stage", width, 0

    def __call__(self, ct):
        self.cases += len(ct)
        return {"z0": 2 * ct, "condition_0": ct[:, :1] + 1}


def go_on():
    """Nobody asks to stop."""


FACTS = {"weights": "a", "data": "b", "settings": "c", "program": "d"}


@pytest.fixture
def source():
    return ArraySource({"ct": np.random.default_rng(0).random((CASES, 3, 2, 2, 1)).astype(np.float32)})


@pytest.fixture
def kept(tmp_path, source):
    """A folder of examples as it should be."""
    kept_examples(tmp_path / "examples", Counting(), source, FACTS, go_on)
    return tmp_path / "examples"


def cases_computed(folder, source, facts=FACTS):
    """How many cases pass the frozen stages for a run that starts now; what it gets is right in any case."""
    counting = Counting()
    found = kept_examples(folder, counting, source, facts, go_on)
    for i in range(CASES):
        np.testing.assert_array_equal(found[i]["z0"], 2 * source[i]["ct"])
        np.testing.assert_array_equal(found[i]["condition_0"], source[i]["ct"][:1] + 1)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["examples"]
    return counting.cases


def test_examples_are_computed_once_and_then_read(tmp_path, source, capsys):
    folder = tmp_path / "examples"
    assert [cases_computed(folder, source) for _ in range(3)] == [CASES, 0, 0]
    assert "anew" not in capsys.readouterr().err


def test_a_last_group_of_fewer_cases_than_devices(tmp_path, source):
    wide = Counting(width=4)
    found = kept_examples(tmp_path / "examples", wide, source, FACTS, go_on)
    assert (len(found), wide.cases) == (CASES, CASES)
    assert cases_computed(tmp_path / "examples", source) == 0


def test_they_are_read_where_they_lie(kept, source):
    found = kept_examples(kept, Counting(), source, FACTS, go_on)
    assert isinstance(found._arrays["z0"].base, np.memmap)
    assert found[1]["z0"].dtype == np.float32


@pytest.mark.parametrize("part", FACTS)
def test_another_origin_is_noticed_and_said(kept, source, capsys, part):
    other = FACTS | {part: "else"}
    assert cases_computed(kept, source, other) == CASES
    assert f"(other {part}) and are computed anew" in capsys.readouterr().err
    assert cases_computed(kept, source, other) == 0


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def change(path):
    written = bytearray(path.read_bytes())
    written[-3] ^= 1
    path.write_bytes(written)


@pytest.mark.parametrize(
    ("name", "harm"),
    [("z0.npy", cut), ("z0.npy", change), ("z0.npy", Path.unlink), ("facts.json", cut), ("facts.json", Path.unlink)],
)
def test_a_harmed_file_is_noticed_and_said(kept, source, capsys, name, harm):
    harm(kept / name)
    assert cases_computed(kept, source) == CASES
    said = capsys.readouterr().err
    assert "are computed anew" in said
    assert name in said
    assert cases_computed(kept, source) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.test_examples import CASES, FACTS, Counting, ArraySource, go_on, kept_examples, np

class Deadly(Counting):
    def __call__(self, ct):
        if self.cases == CASES // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(ct)

source = ArraySource({"ct": np.ones((CASES, 3, 2, 2, 1), np.float32)})
kept_examples(Path(sys.argv[1]), Deadly(), source, FACTS, go_on)
"""


def test_a_run_killed_while_it_writes_leaves_nothing_that_is_read(tmp_path, source):
    folder = tmp_path / "examples"
    killed = subprocess.run([sys.executable, "-c", KILLED, folder], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".partial-")
    assert cases_computed(folder, source) == CASES


def test_a_full_disk_is_said_as_soon_as_the_size_is_known(tmp_path, source, monkeypatch):
    def full(file, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*examples'"):
        kept_examples(tmp_path / "examples", Counting(), source, FACTS, go_on)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_where_nothing_can_be_reserved(tmp_path, source, monkeypatch):
    """Rows are written, so that the failure has a name; a limit on the size of files stands for the disk."""

    def unsupported(file, start, size):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setattr(np, "memmap", lambda *_, **__: pytest.fail("mapped"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*examples'"):
            kept_examples(tmp_path / "examples", Counting(), source, FACTS, go_on)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def frozen(trained):
    config = get_config()
    return load_stages(config, trained, ("ct_vqgan", "view_vqgan", "new_view_vqgan", "new_view"), wanted_by="test")


def run_of(config, variables, workdir):
    return StageRun(config, build_stage("diffusion", config, build_dvg(config)), variables, workdir)


def origin_of(config, variables):
    stage = build_stage("diffusion", config, build_dvg(config))
    return origin(config, stage, variables, build_source(config, "train"))


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, set()),
        ({"sampler.steps": 3, "diffusion.train.steps": 99, "log.metrics_every": 5, "evaluate.cases": 1}, set()),
        ({"angles": (0.0, 80.0)}, {"settings"}),
        ({"new_angles": (50.0,)}, {"settings"}),
        ({"geometry": "paper"}, {"settings"}),
        ({"projector": "published"}, {"settings"}),
        ({"dtype": "bfloat16"}, {"settings"}),
        ({"seed": 1}, {"data", "settings"}),
        ({"data.train_count": 17}, {"data"}),
    ],
)
def test_what_an_example_depends_on(frozen, fields, changed):
    config, other = get_config(), get_config()
    other.update_from_flattened_dict(fields)
    first, second = origin_of(config, frozen), origin_of(other, frozen)
    assert {part for part in first if first[part] != second[part]} == changed


def test_one_weight_is_enough(frozen):
    other = jax.tree.map(np.copy, frozen)
    jax.tree.leaves(other["new_view"])[3].flat[0] += 1e-6
    first, second = origin_of(get_config(), frozen), origin_of(get_config(), other)
    assert {part for part in first if first[part] != second[part]} == {"weights"}


def test_sources_are_told_apart(tmp_path):
    same = PhantomSource(4, 8, seed=2), PhantomSource(4, 8, seed=2)
    others = PhantomSource(4, 8, seed=3), PhantomSource(5, 8, seed=2), PhantomSource(4, 8, seed=2, split="test")
    assert same[0].identity == same[1].identity
    assert len({same[0].identity, *(other.identity for other in others)}) == 4
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode())
    before = of_files(files)
    assert before == of_files(files) != of_files(files[::-1])
    files[1].write_bytes(b"c")
    assert of_files(files) != before


@pytest.fixture(scope="module")
def told(frozen, tmp_path_factory):
    """Losses of a run that caches, of one that does not, and of one that starts again from the first one's folder;
    how many cases each has sent through the frozen stages; on two devices, two cases each."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        devices = jax.devices()[:2]
        patch.setattr(jax, "devices", lambda: devices)
        results = {}
        for name, cache, workdir in (("cached", True, "a"), ("not", False, "b"), ("again", True, "a")):
            config = get_config()
            config.diffusion.train.update({"steps": STEPS, "batch_size": 4, "cache": cache})
            run = run_of(config, frozen, folder / workdir)
            results[name] = _losses(run, patch)
            # So that the third run begins at the first step.
            shutil.rmtree(folder / workdir / "diffusion" / "checkpoints")
    return results


def _losses(run, patch):
    losses, cases = [], []
    step, prepare = run._step, Preparation.__call__

    def stepped(*arguments):
        state, metrics = step(*arguments)
        losses.append({name: float(value) for name, value in metrics.items()})
        return state, metrics

    def prepared(preparation, ct):
        cases.append(len(ct))
        return prepare(preparation, ct)

    with patch.context() as inner:
        inner.setattr(run, "_step", stepped)
        inner.setattr(run, "_show", lambda *_: None)  # a reconstruction that takes long to compile
        inner.setattr(Preparation, "__call__", prepared)
        run.run()
    return losses, sum(cases)


def test_losses_with_and_without_are_the_same_bits(told):
    assert len(told["cached"][0]) == STEPS
    assert len({step["loss"] for step in told["cached"][0]}) == STEPS
    assert told["cached"][0] == told["not"][0] == told["again"][0]


def test_a_run_that_starts_again_pays_nothing(told):
    cases = get_config().data.train_count
    # Without the cache: four at each step, and four that give the shapes before the first.
    assert {name: count for name, (_, count) in told.items()} == {"cached": cases, "not": 4 * (STEPS + 1), "again": 0}


def test_views_drawn_at_each_step_are_not_cached(frozen, tmp_path):
    config = get_config()
    config.update({"random_views": 3, "new_angles": ()})
    with pytest.raises(UserError, match=r"config.diffusion.train.cache is True with random_views 3; allowed: False"):
        run_of(config, frozen, tmp_path)
    config.diffusion.train.cache = False
    assert isinstance(run_of(config, frozen, tmp_path).examples(), MadeInStep)


def test_facts_hold_a_digest_of_every_file(kept):
    facts = json.loads((kept / "facts.json").read_text())
    assert facts["of"] == FACTS
    assert set(facts["sha256"]) == {path.name for path in kept.glob("*.npy")}
