"""Make an environment of the newest Python at hand, for tests of the newest JAX; see ``make newest``.

    python .ci/newest.py FOLDER

looks on ``PATH`` and among pyenv's versions for a Python that is newer than the one that runs this. The first whose
packages can be installed gets a virtual environment in ``FOLDER``. One line says which versions it has. Where there is
none, a line says so and there is no ``FOLDER`` afterwards. For the Python that runs this nothing newer is looked for:
``make test`` has just had the newest JAX that pip finds for it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PROBE = """
import ensurepip, sys, sysconfig, venv
final = sys.version_info.releaselevel == "final" and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(*sys.version_info[:3] if final else ())
"""
"""Print the version of a Python that can make environments and for which packages have wheels."""

VERSIONS = """
from importlib.metadata import version
from platform import python_version
print(f"Python {python_version()} with JAX {version('jax')}")
"""
"""Print the versions of an environment."""


class Found(NamedTuple):
    """Hold a Python's version and its file; a newer one is larger."""

    version: tuple[int, ...]
    path: str


def main(folder: Path) -> None:
    """Make the environment, or say that nothing newer is at hand."""
    shutil.rmtree(folder, ignore_errors=True)
    for python in at_hand():
        if python.version[:2] <= sys.version_info[:2]:
            break
        if why := install(python, folder):
            print(f"newest: Python {'.'.join(map(str, python.version))} is passed over: {why}")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"newest: {_output(str(folder / 'bin' / 'python'), VERSIONS)}")
            return
    print(f"newest: nothing newer than {_output(sys.executable, VERSIONS)} is at hand; make test has tested it")


def at_hand() -> list[Found]:
    """Return one Python of each version on ``PATH`` and of pyenv that works, newest first.

    A name says little: pyenv puts a ``python3.13`` on ``PATH`` that only tells that it is not chosen.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    paths = [path for folder in os.get_exec_path() for path in Path(folder).glob("python3.*")]
    paths += (pyenv / "versions").glob("*/bin/python")
    named = [path for path in paths if path.name == "python" or path.suffix[1:].isdigit()]
    found = {tuple(map(int, said.split())): str(path) for path in named if (said := _output(str(path), PROBE))}
    return sorted((Found(*one) for one in found.items()), reverse=True)


def install(python: Found, folder: Path) -> str:
    """Install this package and its tools for tests; return why that failed, or nothing."""
    tools = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--editable", ".[dev]"]
    for command in ([python.path, "-m", "venv", str(folder)], tools):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return errors[-1] if errors else f"{' '.join(command[1:4])} ended with code {done.returncode}"
    return ""


def _output(python: str, code: str) -> str:
    """Return what a Python prints, or nothing where it fails."""
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
