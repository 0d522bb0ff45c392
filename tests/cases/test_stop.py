"""A request to stop is never lost, whenever it comes; the next start ends with the same bits."""

import gc
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dvg_jax.experiments import command, reproduce
from dvg_jax.experiments.catalogue import Row
from dvg_jax.training.checkpoint import load_model, save_model
from dvg_jax.training.run import train
from dvg_jax.training.stop import AGAIN_S, StopRequest
from tests.cases import toy
from tests.tiny import get_config

ROOT = Path(__file__).parents[2]
MOMENTS = [
    ("validation of view_vqgan", 1),
    ("export of view_vqgan", 1),
    ("validation of view_vqgan", 2),  # after the last step
    ("export of new_view_vqgan", 7),  # for the model
    ("between, before new_view", 1),
    ("preparation of new_view", 3),
    ("step of diffusion", toy.STEPS),
    ("saving of diffusion", 1),  # all is done, but a stop was requested
]


def _unnoticed(number, frame):
    raise AssertionError(f"signal {number} would have killed the run")


@pytest.fixture(autouse=True)
def _signals_fail_the_test_alone():
    before = {number: signal.signal(number, _unnoticed) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def moments(monkeypatch):
    return toy.toys(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train a whole run without a stop."""
    with pytest.MonkeyPatch.context() as patch:
        toy.toys(patch)
        folder = tmp_path_factory.mktemp("stop") / "whole"
        train(toy.config(), folder)
    return folder


def logged(workdir, stage):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("number", "moment"), list(enumerate(MOMENTS)), ids=lambda x: str(x))
def test_a_signal_at_any_moment_stops_the_run_and_the_next_goes_on(tmp_path, whole, moments, number, moment):
    asked = (signal.SIGINT, signal.SIGTERM)[number % 2]
    moments.set(*moment, lambda: signal.raise_signal(asked))
    with pytest.raises(SystemExit) as stopped:
        train(toy.config(), tmp_path)
    assert stopped.value.code == 128 + asked
    # Nothing that takes time was begun afterwards.
    place = [i for i, name in enumerate(moments.passed) if name == moment[0]][moment[1] - 1]
    assert not [name for name in moments.passed[place + 1 :] if name.startswith("between")]
    assert len(moments.passed[place + 1 :]) <= 2
    moments.set("", 0, None)
    train(toy.config(), tmp_path)
    for stage in toy.STAGES:
        (a, facts), (b, expected) = (load_model(folder / stage / "model") for folder in (tmp_path, whole))
        chex.assert_trees_all_equal(a, b)
        assert facts == expected
        assert logged(tmp_path, stage) == logged(whole, stage)


def test_a_signal_before_the_run_begins(tmp_path):
    def run():
        with StopRequest():
            signal.raise_signal(signal.SIGTERM)
            train(get_config(), tmp_path)

    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_nobody_looked_for():
    with pytest.raises(SystemExit) as stopped, StopRequest():
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.code == 128 + signal.SIGINT


def test_a_signal_inside_a_garbage_collection():
    def collected(phase, info):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    def run():
        with StopRequest():
            gc.callbacks.append(collected)
            gc.collect()
            gc.callbacks.remove(collected)

    with pytest.raises(SystemExit):
        run()


WAITS = """
import sys, time
from dvg_jax.training.stop import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while stop.signal is None:
        time.sleep(0.01)
    if sys.argv[1] == "long":
        time.sleep(60)
    time.sleep(0.3)
    print("saved", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("work", "later_s", "saves"), [("short", 0.1, True), ("long", AGAIN_S + 0.2, False)])
def test_a_second_signal_is_for_at_once_unless_it_is_the_first_sent_twice(number, work, later_s, saves):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, work], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    time.sleep(later_s)
    process.send_signal(number)
    out, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert ("saved" in out) is saves
    assert f"{number.name}: finishes" in said
    assert "Traceback" not in said


CLEANS_UP = """
import atexit, time
from dvg_jax.training.stop import StopRequest
def clean_up():
    print("over", flush=True)
    time.sleep(60)
with StopRequest(of_program=True):
    atexit.register(clean_up)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_finished_program_cleans_up(number):
    process = subprocess.Popen(
        [sys.executable, "-c", CLEANS_UP], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "over\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 128 + number


@pytest.mark.parametrize("where", ["a job", "a measurement", "a report"])
def test_a_signal_between_the_parts_of_experiments(tmp_path, monkeypatch, where):
    rows = [Row("III", "", "", "vpge_diffusion", (0.0, 90.0)), Row("VI", "", "", "dvg_net", (0.0, 90.0), target=45.0)]
    experiment = command.prepare(get_config(), tmp_path, rows, [])
    done = []

    def part(name):
        def does(*_):
            done.append(name)
            if name == where and done.count(name) == 2:
                signal.raise_signal(signal.SIGINT)
            return {}

        return does

    monkeypatch.setattr(reproduce, "train", part("a job"))
    monkeypatch.setattr(reproduce, "measure_subject", part("a measurement"))
    for name in ("yardstick_of", "codec_of", "trained_run"):
        monkeypatch.setattr(reproduce, name, lambda *_: "a subject")
    monkeypatch.setattr(command, "prepare", lambda *_: experiment)
    monkeypatch.setattr(command, "draw", lambda *_: [])
    monkeypatch.setattr(command, "write_report", part("a report"))
    with pytest.raises(SystemExit) as stopped:
        command.main(["--table", "all", f"--workdir={tmp_path}"])
    assert stopped.value.code == 128 + signal.SIGINT
    assert (done[-1], done.count(where)) == (where, 2)


def test_a_model_stays_until_a_new_one_is_whole(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    save_model(folder, {"w": np.ones(3)}, {"steps": 1})

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CompositeCheckpointHandler, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(folder, {"w": np.zeros(3)}, {"steps": 2})
    assert load_model(folder)[1] == {"steps": 1}
    save_model(folder, {"w": np.zeros(3)}, {"steps": 2})
    assert load_model(folder)[1] == {"steps": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
