"""Settings that must be in place before JAX is imported by any test, and what several tests share."""

import atexit
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import jaxtyping
import pytest

from dvg_jax import runtime, xla_flags
from dvg_jax.cli.entry import run_command
from tests.processes import FAKE_DEVICES

PLATFORM = os.environ["JAX_PLATFORMS"] = os.environ.get("DVG_TEST_PLATFORM", "cpu")
runtime.set_up()
# Four fake devices let sharding be tested on a CPU; thread count per device stays the machine's.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAKE_DEVICES}"
COMPILER = os.environ.get("DVG_TEST_COMPILER", "quick")
if COMPILER not in ("quick", "full"):
    raise pytest.UsageError(f"DVG_TEST_COMPILER is {COMPILER!r}; allowed: quick, full")
if COMPILER == "quick":
    # Tests run few steps of many programs: the same operations, compiled to slower code in a quarter of the time.
    # ``make slow`` compiles as users do.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # One module a program: its parts are compiled in parallel otherwise, and the two workers fill two cores.
    for name, value in {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}.items():
        if xla_flags.is_known(name):
            os.environ["XLA_FLAGS"] += f" --{name}={value}"
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Workers share what one of them has compiled; the user's own cache is left alone.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dvg_jax_tests_")
    # Programs that take less than JAX's default of a second are most of what a command compiles.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script's shell starts its background jobs so, and the commands under test would never hear of a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = (
    *("baselines", "calibration", "ct", "data", "diffusion", "dvg", "evaluate", "methods", "metrics"),
    *("networks", "reconstruct", "report", "stages", "xray"),
)
"""Packages whose annotations are checked at every call: those with shapes in their signatures. ``training`` is left
out, since JAX fills its trees with placeholders. A whole number may stand for a float, as in Python."""
jaxtyping.install_import_hook(
    [f"dvg_jax.{name}" for name in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

LONGEST_FIRST = (
    "training/test_stop_at_random",
    "commands/test_commands",
    "tests/test_configs",
    "baselines/test_commands",
    "training/test_devices",
    "parity/test_finestage",
    "training/test_examples",
    "training/test_resume",
)
"""The first is slow. The second trains what ``trained`` gives, the third does without: two that need it would wait."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Tests on a GPU run in one process: each would take three quarters of its memory at once."""
    if PLATFORM != "cpu" and getattr(config.option, "numprocesses", None):
        config.option.numprocesses = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take files from the front: what takes long comes first, so that they end together."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(f"{item.path.parent.name}/{item.path.stem}", len(rank)))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which every stage of the tiny config has been trained; workers share one."""
    from dvg_jax.training.run import train
    from tests.tiny import get_config

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train(get_config(), root / "trained")  # does nothing where all is trained
    return root / "trained"


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check of annotations, for a test that breaks them on purpose to see the refusal."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run a command that must refuse its input; gives the one line it says."""

    def run(main, *argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as stopped:
            run_command(main)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stopped.value.code == 2
        assert len(lines) == 1
        return lines[0]

    return run
