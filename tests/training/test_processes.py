"""Two processes on one machine train what one process trains, stop together and go on together."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.training import command as train
from dvg_jax.training import distributed
from dvg_jax.training.checkpoint import load_model
from tests.processes import one_device

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240
STAGES = ("ct_vqgan", "diffusion")
STEPS = 8
FLAGS = (
    "--config.use_vpge=False", "--config.new_angles=()", "--config.log.checkpoint_every=100",
    *(f"--config.{stage}.train.steps={STEPS}" for stage in STAGES),
    *(f"--config.{stage}.train.batch_size=4" for stage in STAGES),
    "--config.ct_vqgan.train.cache=False",
)  # fmt: skip
FIRST = ("--config.stage=ct_vqgan", "--config.ct_vqgan.train.steps=30")


def command(workdir: Path, *flags: str) -> list[str]:
    return ["train.py", "--config", str(ROOT / "tests/tiny.py"), "--workdir", str(workdir), *FLAGS, *flags]


class Pair:
    """``train.py`` in two processes of one device each."""

    def __init__(self, workdir: Path, *flags: str) -> None:
        self.metrics = workdir / "ct_vqgan" / "metrics.jsonl"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = (*flags, f"--coordinator={address}", "--processes=2")
        self.processes = [
            subprocess.Popen(
                [sys.executable, *command(workdir, *flags, f"--process={i}")],
                cwd=ROOT, env=one_device(), stderr=subprocess.PIPE, text=True,
            )
            for i in range(2)
        ]  # fmt: skip

    def interrupt_second(self) -> None:
        """SIGTERM to one process alone, once two steps have been logged."""
        end = time.monotonic() + DEADLINE_S
        while not self.metrics.exists() or len(self.metrics.read_text().splitlines()) < 2:
            assert time.monotonic() < end, "the run did not get there"
            assert self.processes[0].poll() is None, self.codes()
            time.sleep(0.002)
        self.processes[1].send_signal(signal.SIGTERM)

    def codes(self) -> list[int]:
        """Exit codes; a process that hangs is killed and fails the test."""
        try:
            said = [process.communicate(timeout=DEADLINE_S)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        for text in said:
            print(text[-2000:])
        return [process.returncode for process in self.processes]


def alone(workdir: Path, *flags: str) -> None:
    """The same command in this process, on one device."""
    with pytest.MonkeyPatch.context() as patch:
        devices = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: devices)
        patch.setattr(sys, "argv", command(workdir, *flags))
        train.main()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of one process and of two that trained the same stages, one uncached and one cached."""
    folder = tmp_path_factory.mktemp("processes")
    pair = Pair(folder / "two")
    alone(folder / "one")
    assert pair.codes() == [0, 0]
    return folder / "one", folder / "two"


def last_checkpoint(stage: Path) -> int:
    return max(int(path.name) for path in (stage / "checkpoints").iterdir() if path.name.isdigit())


def assert_equal_models(one: Path, two: Path) -> None:
    (a, facts), (b, facts_of_two) = (load_model(stage / "model") for stage in (one, two))
    # Weights are equal up to rounding, so digests of them differ.
    digests = {"fingerprint", "from"}
    assert facts.keys() == facts_of_two.keys() > digests
    assert {k: v for k, v in facts.items() if k not in digests} == {
        k: v for k, v in facts_of_two.items() if k not in digests
    }
    assert jax.tree.structure(a) == jax.tree.structure(b)
    x, y = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    assert np.linalg.norm(y - x) <= 1e-5 * np.linalg.norm(x)
    # Adam makes a step of its rate, 1e-3, of any gradient, of one that is rounding alone too. A number or two in all
    # have such a one, and lie up to a fortieth of a step apart; the others lie within 1e-5.
    apart = np.abs(y - x)
    assert np.mean(apart > 1e-5) < 1e-4
    assert apart.max() < 1e-4


def losses(stage: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_learn_what_one_does(runs, stage):
    one, two = (workdir / stage for workdir in runs)
    assert_equal_models(one, two)
    assert last_checkpoint(two) == STEPS
    assert (two / "pictures").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_step_is_logged_once(runs, stage):
    one, two = (losses(workdir / stage) for workdir in runs)
    assert [step for step, _ in two] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(two, one, rtol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_they_go_on(tmp_path):
    one, two = (tmp_path / name / "ct_vqgan" for name in ("one", "two"))
    pair = Pair(two.parent, *FIRST)
    pair.interrupt_second()
    assert pair.codes() == [128 + signal.SIGTERM] * 2
    step = last_checkpoint(two)
    assert 2 < step < 30
    assert Pair(two.parent, *FIRST).codes() == [0, 0]
    assert Pair(one.parent, *FIRST).codes() == [0, 0]
    for x, y in zip(*(jax.tree.leaves(load_model(stage / "model")[0]) for stage in (one, two)), strict=True):
        np.testing.assert_array_equal(y, x)
    assert losses(two) == losses(one)
    assert [step for step, _ in losses(two)] == list(range(1, 31))


SRUN = dict.fromkeys(distributed.SLURM, "0") | {"SLURM_NTASKS": "16"}


@pytest.mark.parametrize(
    ("environment", "tasks"),
    [
        ({}, 1),
        (SRUN, 16),
        (SRUN | {"SLURM_NTASKS": "1"}, 1),
        # A batch script that does not say srun.
        ({name: value for name, value in SRUN.items() if name != "SLURM_STEP_NODELIST"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
    ],
)
def test_clusters_are_told_from_single_processes(environment, tasks):
    assert distributed.cluster_tasks(environment) == tasks


def test_an_mpi_that_jax_does_not_know_is_refused():
    with pytest.raises(UserError, match="OMPI_COMM_WORLD_SIZE is 2"):
        distributed.cluster_tasks({"OMPI_COMM_WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--coordinator=host:1"], "--processes is missing"),
        (["--processes=2"], "--coordinator is missing"),
        (["--coordinator=host:1", "--processes=2"], "--process is missing"),
        (["--coordinator=host", "--processes=2", "--process=0"], "--coordinator is host"),
        (["--coordinator=host:0", "--processes=2", "--process=0"], "--coordinator is host:0"),
        (["--coordinator=:1234", "--processes=2", "--process=0"], "--coordinator is :1234"),
        (["--coordinator=host:1", "--processes=0", "--process=0"], "--processes is 0"),
        (["--coordinator=host:1", "--processes=2", "--process=2"], "--process is 2"),
        (["--coordinator=host:1", "--processes=2", "--process=-1"], "--process is -1"),
        (["--coordinator=host:1", "--processes=two", "--process=1"], "processes"),
    ],
)
def test_flags_that_make_no_sense(fails, tmp_path, flags, said):
    assert said in fails(train.main, "--config", ROOT / "tests/tiny.py", "--workdir", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_one_process_by_flags_is_as_without():
    distributed.join("host:1234", 1, 0)
    assert jax.process_count() == 1
    assert not jax.distributed.is_initialized()
