"""Run the project's commands in processes of their own, and judge how they end."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.processes import one_device

ROOT = Path(__file__).parents[2]
LIMIT_S = 300.0
"""A tiny training takes a minute where nothing is compiled yet."""

_PROGRESS = re.compile(r"\d+%\||\d(it/s|s/it)|^\s*$")
_NOISE = re.compile(r"Traceback|Exception|Error\b|^\s+File ")

SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}
"""Attacks compute on the CPU and compile quickly, to slower code."""


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start ``python`` with these words at the project's root, as the leader of a process group.

    Args:
      words: a script or ``-m`` and a module, and its flags.
      folder: gets the compilation cache that all commands of an attack share.
    """
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a command: one device, ``SETTINGS``, and a compilation cache below ``folder``."""
    return one_device() | SETTINGS | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}


def end(process: subprocess.Popen[str], limit_s: float = LIMIT_S) -> tuple[int | None, str]:
    """Return the exit code of a process and what it said; None as code where it hung and was killed."""
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        kill(process)
        return None, process.communicate()[0]
    return process.returncode, said


def run(words: list[str], folder: Path) -> tuple[int | None, str]:
    """Run a command to its end; see :func:`start` and :func:`end`."""
    return end(start(words, folder))


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that :func:`start` has started, and all that it has started itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def fault(code: int | None, said: str) -> str:
    """Return what is wrong with an end that should be a success or one line of refusal; nothing where all is right."""
    lines = [line for line in re.split(r"[\r\n]+", said) if not _PROGRESS.search(line)]
    errors = [line for line in lines if line.startswith("error: ")]
    noise = [line for line in lines if _NOISE.search(line.partition("error: ")[0])]
    if code is None:
        return "hangs"
    if code < 0:
        return f"dies of {signal.Signals(-code).name}"
    if noise:
        return f"exit code {code} with noise: {noise[0][:100]} ... {noise[-1][:100]}"
    if code not in (0, 2) or len(errors) != (code == 2):
        return f"exit code {code} with {len(errors)} lines of error, {said[-200:]!r}"
    return ""


def train(workdir: Path, *overrides: str) -> list[str]:
    """Return the words of a training of the tiny config."""
    return ["train.py", "--config", "tests/tiny.py", "--workdir", str(workdir), *overrides]
