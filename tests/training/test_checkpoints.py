"""States are written while the training goes on: whole, as they were at their step, and no error is lost."""

import ctypes
import errno
import json
import os
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dvg_jax.errors import UserError
from dvg_jax.training import writing
from dvg_jax.training.checkpoint import Checkpoints, load_model
from dvg_jax.training.run import train
from dvg_jax.training.stop import StopRequest
from tests.cases import toy

LIMIT_S = 20.0
"""A write that is held up goes on after this long in any case, so that a test fails and does not hang."""


def state(step: int):
    return {"w": jnp.full(6, float(step)), "step": jnp.asarray(step)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def gate(monkeypatch):
    """Hold up every write before its seal until the event is set."""
    opened, seal = threading.Event(), writing.seal

    def held(folder):
        opened.wait(LIMIT_S)
        seal(folder)

    monkeypatch.setattr(writing, "seal", held)
    yield opened
    opened.set()


@pytest.fixture
def full(monkeypatch):
    """Let every write fail before its seal, as on a full disk; return the way back."""

    def fails(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(writing, "seal", fails)
        yield patch.undo


def ended(saved: Checkpoints) -> None:
    """Wait until the write under way has ended, without asking how."""
    end = time.monotonic() + LIMIT_S
    while not saved._background._under_way.done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_save_returns_before_its_state_is_whole_and_only_what_is_whole_counts(tmp_path, gate):
    with Checkpoints(tmp_path, 2) as saved:
        saved.save(1, state(1), {"place": 1})
        assert saved.latest() is None
        assert all(name.startswith(".partial-") for name in names(tmp_path))
        gate.set()
        saved.wait()
        assert saved.latest() == 1
        assert names(tmp_path) == ["1"]


def test_leaving_the_block_waits_for_the_write(tmp_path, gate):
    threading.Timer(0.3, gate.set).start()
    with Checkpoints(tmp_path, 2) as saved:
        saved.save(1, state(1), {})
    assert names(tmp_path) == ["1"]


def test_one_state_is_written_at_a_time_and_older_ones_go(tmp_path, monkeypatch):
    seal, passed = writing.seal, []

    def slow(folder):
        passed.append("in")
        time.sleep(0.1)
        seal(folder)
        passed.append("out")

    monkeypatch.setattr(writing, "seal", slow)
    with Checkpoints(tmp_path, 2) as saved:
        for step in (1, 2, 3, 3):
            saved.save(step, state(step), {"place": step})
    assert passed == ["in", "out"] * 3
    assert names(tmp_path) == ["2", "3"]
    found, data = saved.restore(3, state(0))
    chex.assert_trees_all_equal(found, state(3))
    assert data == {"place": 3}


def test_a_state_is_read_once_it_is_whole(tmp_path, gate):
    saved = Checkpoints(tmp_path, 2)
    saved.save(1, state(1), {})
    threading.Timer(0.2, gate.set).start()
    chex.assert_trees_all_equal(saved.restore(1, state(0))[0], state(1))


def over(devices: int, *axes: str | None):
    return NamedSharding(jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices]), PartitionSpec(*axes))


@pytest.mark.parametrize("layout", [(1,), (4,), (4, "data")], ids=["one device", "on each of four", "split"])
def test_a_state_is_written_as_it_was_whatever_becomes_of_its_memory(tmp_path, layout):
    """Bytes are overwritten in place, as a training step may do with buffers that it is given.

    JAX 0.10 does so where no array of NumPy looks at them, which is a promise of its runtime and not of its interface.
    """
    values = np.random.default_rng(0).random((4, 2**21), np.float32)
    held = {"w": jax.device_put(values.copy(), over(*layout))}
    jax.block_until_ready(held)
    with Checkpoints(tmp_path, 1) as saved:
        saved.save(1, held, {})
        for shard in held["w"].addressable_shards:
            ctypes.memset(shard.data.unsafe_buffer_pointer(), 0, shard.data.nbytes)
    assert not np.any(np.asarray(held["w"]))
    np.testing.assert_array_equal(saved.restore(1, held)[0]["w"], values)


def test_steps_that_take_a_saved_states_buffers_change_nothing_of_it(tmp_path, gate):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    first = now = jax.device_put({"w": jnp.zeros(2**20)}, over(1))
    with Checkpoints(tmp_path, 1) as saved:
        saved.save(1, first, {})
        for _ in range(3):
            now = step(now)
        assert first["w"].is_deleted()
        gate.set()
    np.testing.assert_array_equal(saved.restore(1, now)[0]["w"], 0)
    np.testing.assert_array_equal(now["w"], 3)


@pytest.mark.parametrize("call", ["save", "check", "wait", "restore"])
def test_an_error_is_raised_once_by_the_next_call_and_the_next_state_is_written(tmp_path, full, call):
    calls = {
        "save": lambda: saved.save(2, state(2), {}),
        "check": lambda: saved.check(),
        "wait": lambda: saved.wait(),
        "restore": lambda: saved.restore(1, state(0)),
    }
    saved = Checkpoints(tmp_path, 2)
    saved.save(1, state(1), {})
    ended(saved)
    with pytest.raises(OSError, match="No space left on device"):
        calls[call]()
    assert names(tmp_path) == []
    full()
    saved.check()
    saved.save(2, state(2), {})
    saved.wait()
    assert names(tmp_path) == ["2"]


def test_a_look_for_errors_never_waits(tmp_path, gate):
    with Checkpoints(tmp_path, 2) as saved:
        saved.save(1, state(1), {})
        saved.check()
        assert saved.latest() is None
        gate.set()


def test_an_error_is_raised_at_the_end_of_the_block(tmp_path, full):
    saved = Checkpoints(tmp_path, 2)
    with pytest.raises(OSError, match="No space left on device"), saved:
        saved.save(1, state(1), {})


def test_an_error_hides_no_other_and_is_said(tmp_path, full, capsys):
    def saves_and_fails():
        with Checkpoints(tmp_path, 2) as saved:
            saved.save(1, state(1), {})
            raise UserError("another")

    with pytest.raises(UserError, match="another"):
        saves_and_fails()
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}: a state could not be written: ")
    assert "No space left on device" in said


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Checkpoints(tmp_path / "file" / "checkpoints", 2).save(1, state(1), {})


@pytest.fixture
def moments(monkeypatch):
    return toy.toys(monkeypatch)


def one_stage(**fields):
    return toy.config(stage="ct_vqgan", **{"log.checkpoint_every": 1, **fields})


def held_up(monkeypatch, seconds: float) -> None:
    seal = writing.seal
    monkeypatch.setattr(writing, "seal", lambda folder: (time.sleep(seconds), seal(folder)))


@pytest.mark.parametrize("moment", ["step of ct_vqgan", "validation of ct_vqgan"])
def test_a_stopped_run_says_that_it_saved_when_its_state_is_whole(tmp_path, monkeypatch, moments, moment):
    found, leave = [], StopRequest.leave

    def leaving(self, where):
        found.append((where, names(tmp_path / "ct_vqgan" / "checkpoints")))
        leave(self, where)

    held_up(monkeypatch, 0.2)
    monkeypatch.setattr(StopRequest, "leave", leaving)
    moments.set(moment, 1, lambda: setattr(StopRequest._in_charge, "signal", 15))
    with pytest.raises(SystemExit):
        train(one_stage(), tmp_path)
    (where, there), step = found[0], 1 if moment.startswith("step") else 2
    assert where == f"ct_vqgan: saved at step {step}"
    assert there[-1] == str(step)


def test_a_model_is_written_when_the_last_state_is_whole(tmp_path, monkeypatch, moments):
    found = []
    held_up(monkeypatch, 0.2)
    moments.set("saving of ct_vqgan", 1, lambda: found.extend(names(tmp_path / "ct_vqgan" / "checkpoints")))
    train(one_stage(), tmp_path)
    assert found[-1] == str(toy.STEPS)


@pytest.mark.parametrize("every", [1, toy.STEPS], ids=["on the way", "at the end"])
def test_a_full_disk_stops_the_training_and_the_next_run_goes_on(tmp_path, moments, full, every):
    config, folder = one_stage(**{"log.checkpoint_every": every}), tmp_path / "broken"
    with pytest.raises(OSError, match="No space left on device"):
        train(config, folder)
    assert not (folder / "ct_vqgan" / "model").exists()
    assert names(folder / "ct_vqgan" / "checkpoints") == []
    full()
    train(config, folder)
    train(config, tmp_path / "whole")
    (a, facts), (b, expected) = (load_model(tmp_path / name / "ct_vqgan" / "model") for name in ("broken", "whole"))
    chex.assert_trees_all_equal(a, b)
    assert facts == expected
    logs = [(tmp_path / name / "ct_vqgan" / "metrics.jsonl").read_text() for name in ("broken", "whole")]
    assert [json.loads(line) for line in logs[0].splitlines()] == [json.loads(line) for line in logs[1].splitlines()]


def test_an_error_stops_the_training_at_the_next_step(tmp_path, monkeypatch, moments, full):
    """The state of step 2 cannot be written; the next save, at step 4, would come too late to say so."""
    step_taken = writing.Background.check

    def patient(self):
        if self._under_way is not None:
            wait_s = time.monotonic() + LIMIT_S
            while not self._under_way.done() and time.monotonic() < wait_s:
                time.sleep(0.01)
        step_taken(self)

    monkeypatch.setattr(writing.Background, "check", patient)
    with pytest.raises(OSError, match="No space left on device"):
        train(one_stage(**{"log.checkpoint_every": 2, "log.evaluate_every": 0}), tmp_path)
    assert moments.passed.count("step of ct_vqgan") == 3
