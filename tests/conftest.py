"""Settings that must be in place before JAX is imported by any test."""

import os

from dvg_jax import runtime

runtime.tune_allocator()
runtime.quiet()
os.environ["JAX_PLATFORMS"] = os.environ.get("DVG_TEST_PLATFORM", "cpu")
# Four fake devices let sharding be tested on a CPU; thread count per device stays the machine's.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from dvg_jax import cli  # noqa: E402


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which every stage of the tiny config has been trained."""
    from dvg_jax.training.run import train
    from tests.tiny import get_config

    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    train(get_config(), workdir)
    return workdir


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run a command that must refuse its input; gives the one line it says."""

    def run(main, *argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as stopped:
            cli.run(main)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stopped.value.code == 2
        assert len(lines) == 1
        return lines[0]

    return run
