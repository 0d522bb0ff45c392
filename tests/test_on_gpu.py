"""The prepared run on a GPU, tried on what is here: each step is tried on its own, and a failure is a result."""

import json
import sys
from threading import Event

from benchmarks import on_gpu, on_gpu_steps
from benchmarks.on_gpu_steps import Case, Options


def test_a_step_that_fails_is_recorded_and_the_next_follows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_gpu"])
    on_gpu.main(["--output", str(tmp_path / "out"), "--size", "16", "--only", "forward", "env"])
    found = json.loads((tmp_path / "out" / "on_gpu.json").read_text())
    assert {"device", "versions", "date", "command"} <= found.keys()
    assert "allowed" in found["results"]["forward"]["failed"]
    assert found["results"]["env"]["devices"]["kinds"]
    assert "env" in capsys.readouterr().out


def test_a_compiled_program_is_reported_while_another_step_is_being_made(monkeypatch):
    reported = Event()

    def slow(options):
        assert reported.wait(60)
        raise MemoryError("too large")

    steps = {"slow": slow, "quick": lambda options: {"a": Case(run=lambda: None)}}
    monkeypatch.setattr(on_gpu_steps, "CASES", steps)
    results = on_gpu_steps.compile_all(Options(size=32, dtype="float32", lpips=False, jobs=2))
    name, found = next(results)
    assert name == "quick: a"
    assert found["seconds"] >= 0
    reported.set()
    assert dict(results) == {"slow": {"failed": "too large"}}
