"""The prepared run on a GPU, tried on what is here: each step is tried on its own, and a failure is a result."""

import json
import sys

from benchmarks import on_gpu


def test_a_step_that_fails_is_recorded_and_the_next_follows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["on_gpu"])
    on_gpu.main(["--output", str(tmp_path / "out"), "--size", "16", "--only", "forward", "env"])
    found = json.loads((tmp_path / "out" / "on_gpu.json").read_text())
    assert {"device", "versions", "date", "command"} <= found.keys()
    assert "allowed" in found["results"]["forward"]["failed"]
    assert found["results"]["env"]["devices"]["kinds"]
    assert "env" in capsys.readouterr().out
