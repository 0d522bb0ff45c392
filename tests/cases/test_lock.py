"""The second of two programs that would write into one folder is refused, however the first ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dvg_jax.errors import UserError
from dvg_jax.files import lock

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from dvg_jax.files.lock import exclusive
with exclusive(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that locks a folder which it had to create."""
    held = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, cwd=ROOT)
    assert held.stdout.readline() == b"held\n"
    yield held
    held.kill()
    held.wait()


def test_the_second_is_one_line_that_names_the_first_and_a_killed_first_is_no_hindrance(tmp_path, holder):
    folder = tmp_path / "run"
    line = rf"run: another training is running in it \(pid {holder.pid}\); allowed: one at a time"
    with pytest.raises(UserError, match=line), lock.exclusive(folder, "preparation"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock.exclusive(folder, "preparation"):
        assert folder.is_dir()
    assert not list(folder.iterdir())  # no trace of the killed process either


def test_a_folder_that_is_still_empty_at_the_end_is_not_left(tmp_path):
    with lock.exclusive(tmp_path / "a" / "b", "training"):
        pass
    assert not list(tmp_path.iterdir())
    with lock.exclusive(tmp_path / "a" / "b", "training"):
        (tmp_path / "a" / "b" / "result").touch()
    assert (tmp_path / "a" / "b" / "result").is_file()


def test_one_that_opened_the_file_before_its_holder_ended_does_not_hold_a_nameless_file(tmp_path, monkeypatch):
    held = lock.exclusive(tmp_path, "training")
    held.__enter__()
    once, calls = lock._lock, []

    def end_first(descriptor):
        if not calls:
            held.__exit__(None, None, None)
        calls.append(descriptor)
        once(descriptor)

    monkeypatch.setattr(lock, "_lock", end_first)
    with lock.exclusive(tmp_path, "training"):
        assert len(calls) == 2
        monkeypatch.undo()
        with pytest.raises(UserError, match="another training"), lock.exclusive(tmp_path, "training"):
            pass


def test_a_file_in_its_place_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/inside"):
        with pytest.raises(UserError, match="cannot be made or written"), lock.exclusive(tmp_path / place, "training"):
            pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def fails(descriptor):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_lock", fails)
    with lock.exclusive(tmp_path, "training"):
        pass
    assert "no locks (No locks available)" in capsys.readouterr().err
