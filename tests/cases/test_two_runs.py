"""The second of two runs in one folder is refused by one line, however they started; a killed one hinders none."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dvg_jax.errors import UserError
from dvg_jax.experiments import command, reproduce
from dvg_jax.experiments.catalogue import Row
from dvg_jax.torch_import import command as torch_import
from dvg_jax.training import run
from dvg_jax.training.run import train
from dvg_jax.training.workdir import load_stages
from tests.cases import toy
from tests.tiny import get_config

ROOT = Path(__file__).parents[2]

HOLDS = """
import sys, time
from pathlib import Path
from dvg_jax.files.lock import exclusive
with exclusive(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other():
    """Lock a folder as another process that trains in it would."""
    processes = []

    def start(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLDS, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_second_training_is_refused_and_changes_nothing(tmp_path, monkeypatch, other):
    toy.toys(monkeypatch)
    train(toy.config(stage="ct_vqgan"), tmp_path)
    before, process = files(tmp_path), other(tmp_path)
    with pytest.raises(UserError, match=rf"another training is running in it \(pid {process.pid}\); allowed: one"):
        train(toy.config(), tmp_path)
    assert files(tmp_path) == before
    # Commands that only read go on.
    assert load_stages(toy.config(), tmp_path, ("ct_vqgan",), wanted_by="a test")
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(toy.config(), tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_training_in_a_folder_of_experiments(tmp_path, other):
    experiment = command.prepare(get_config(), tmp_path, [Row("III", "", "", "vpge_diffusion", (0.0, 90.0))], [])
    other(tmp_path)
    with pytest.raises(UserError, match="another training is running"):
        reproduce.reproduce(experiment, print)
    other(tmp_path / "jobs" / "ct_vqgan")
    with pytest.raises(UserError, match=r"ct_vqgan: another training is running"):
        reproduce.Clock(experiment, tmp_path / "jobs", print).train(experiment.jobs["ct_vqgan"])


def test_an_import_into_a_folder_that_is_trained_in(tmp_path, monkeypatch, other, fails):
    monkeypatch.setattr(torch_import, "open_vqgan", lambda *_: None)
    monkeypatch.setattr(torch_import, "write_workdir", lambda *_: pytest.fail("written"))
    other(tmp_path)
    said = fails(torch_import.main, "--vqgan=ct_vqgan=a.ckpt", f"--workdir={tmp_path}")
    assert "another training is running in it" in said


def test_of_several_processes_the_first_takes_the_lock_and_all_hear_of_it(tmp_path, monkeypatch, other):
    monkeypatch.setattr(run, "is_first", lambda: False)
    other(tmp_path)
    with run.alone_in(tmp_path, "training"):
        pass
    monkeypatch.setattr(run, "in_any", lambda fact: True)
    with pytest.raises(UserError, match="process 0 may not work in it"), run.alone_in(tmp_path, "training"):
        pytest.fail("went on")


def test_a_stage_of_another_predecessor_is_neither_kept_nor_used(tmp_path, monkeypatch):
    """The first stage is trained on, so its latents mean something else to the stages that learned from it."""
    toy.toys(monkeypatch)
    train(toy.config(), tmp_path)
    longer = {"ct_vqgan.train.steps": toy.STEPS + 2}
    train(toy.config(stage="ct_vqgan", **longer), tmp_path)
    for stage, said in (("all", "new_view"), ("new_view", "new_view"), ("diffusion", "diffusion")):
        with pytest.raises(UserError, match=f"{said} was trained from another ct_vqgan than .*; allowed: remove"):
            train(toy.config(stage=stage, **longer), tmp_path)
    with pytest.raises(UserError, match="new_view was trained from another ct_vqgan"):
        load_stages(toy.config(), tmp_path, toy.STAGES, wanted_by="a test")
    for name in ("new_view", "diffusion"):
        shutil.rmtree(tmp_path / name)
    train(toy.config(**longer), tmp_path)
    assert load_stages(toy.config(), tmp_path, toy.STAGES, wanted_by="a test").keys() == set(toy.STAGES)


def test_an_encoder_of_views_may_serve_as_that_of_new_views(tmp_path, monkeypatch):
    """The paper's tables need this: one encoder is trained for a set of views."""
    toy.toys(monkeypatch)
    config = toy.config(**{"init.new_view_vqgan": str(tmp_path / "view_vqgan")})
    train(config, tmp_path)
    assert load_stages(config, tmp_path, toy.STAGES, wanted_by="a test").keys() == set(toy.STAGES)
    assert not (tmp_path / "new_view_vqgan").exists()
