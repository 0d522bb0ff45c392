"""The newest Python that works is found for the tests of the newest JAX, and one line says what was found."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[1] / ".ci" / "newest.py"


@pytest.fixture
def newest(monkeypatch, tmp_path):
    """Give the script as a module, on a machine that has no Python but those a test puts on PATH."""
    spec = importlib.util.spec_from_file_location("newest", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PATH", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return module


def _script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def _python(path: Path, version: str) -> Path:
    """Write a Python that tells its version but makes no environment."""
    return _script(path, f'if [ "$1" = -c ]; then echo "{version}"; else echo "ERROR: no $2" >&2; exit 1; fi')


def test_pythons_that_work_are_found_newest_first(newest, tmp_path):
    """A version on PATH that cannot run, as pyenv's are that are not chosen, and what is no Python, are left out."""
    _script(tmp_path / "first" / "python3.14", "echo 'not found' >&2", "exit 127")
    _python(tmp_path / "first" / "python3.9", "3 9 1")
    _python(tmp_path / "first" / "python3.12-config", "3 20 0")
    twelve = _python(tmp_path / "second" / "python3.12", "3 12 4")
    thirteen = _python(tmp_path / "pyenv" / "versions" / "3.13.0" / "bin" / "python", "3 13 0")
    (tmp_path / "second" / "python3.15").touch()
    found = newest.at_hand()
    assert [one.version for one in found] == [(3, 13, 0), (3, 12, 4), (3, 9, 1)]
    assert [Path(one.path) for one in found[:2]] == [thirteen, twelve]


def test_a_line_says_that_nothing_newer_is_at_hand(newest, tmp_path, capsys):
    """An environment that an earlier run made is not tested again in its place."""
    _python(tmp_path / "first" / "python3.9", "3 9 1")
    (tmp_path / "made").mkdir()
    newest.main(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"newest: nothing newer than Python {'.'.join(map(str, sys.version_info[:3]))} with JAX")


def test_a_python_whose_packages_cannot_be_installed_is_passed_over(newest, tmp_path, capsys):
    _python(tmp_path / "first" / "python3.99", "3 99 0")
    newest.main(tmp_path / "made")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "newest: Python 3.99.0 is passed over: ERROR: no venv"
    assert said[1].startswith("newest: nothing newer than")
    assert not (tmp_path / "made").exists()


def test_the_first_that_can_be_installed_is_taken(newest, tmp_path, capsys, monkeypatch):
    """The newest fails, the second makes the environment, and the third is not tried."""
    for minor in (97, 98, 99):
        _python(tmp_path / "first" / f"python3.{minor}", f"3 {minor} 0")
    tried = []

    def install(python, folder):
        tried.append(python.version[1])
        _script(folder / "bin" / "python", "echo Python 3.98.0 with JAX 9")
        return "ERROR: no wheel" if python.version[1] == 99 else ""

    monkeypatch.setattr(newest, "install", install)
    newest.main(tmp_path / "made")
    assert tried == [99, 98]
    assert capsys.readouterr().out.splitlines()[1] == "newest: Python 3.98.0 with JAX 9"
    assert (tmp_path / "made" / "bin" / "python").exists()
