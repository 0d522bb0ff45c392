"""A signal may reach a preparation and its processes at once, as ``timeout`` and clusters send it."""

import os
import signal
import sys
import time

import pytest

from dvg_jax.data.scans import folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def test_processes_that_start_hear_no_signal():
    """A process that a signal ends before it has set its handlers breaks the pool."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with folder._signals_held():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGINT, signal.SIGTERM}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_process_at_work_goes_on_and_ends_in_time(monkeypatch):
    """If the process ended while it returns a result, the parent would wait for the rest for ever."""
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(folder, "_GRACE_S", 0.05)
    folder._end_later(signal.SIGTERM, None)
    assert ends == []
    time.sleep(0.3)
    assert ends == [143]


def test_parts_of_files_go(tmp_path):
    (tmp_path / ".partial-1-a.nii.gz").touch()
    (tmp_path / "b.nii.gz").touch()
    with pytest.raises(KeyboardInterrupt), folder._cleared(tmp_path):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["b.nii.gz"]
