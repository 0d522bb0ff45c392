"""A signal may reach a preparation and its processes at once, as ``timeout`` and clusters send it."""

import os
import signal
import sys
import time

import pytest

from dvg_jax.data.scans import folder
from dvg_jax.data.scans.workers import Workers
from tests.cases.attacks import nothing, signalled

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def test_workers_hear_no_signal_for_the_group_and_end_with_the_block():
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Workers(1, nothing) as workers:
        ((_, (process, blocked)),) = workers.each(signalled, [sorted(signals)])
        assert blocked == signals
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_stop_does_not_wait_for_the_work():
    start = time.monotonic()
    with Workers(2, nothing) as workers:
        assert next(workers.each(time.sleep, [0, 600]))[0] == 0
    assert time.monotonic() - start < 60


def test_parts_of_files_go(tmp_path):
    (tmp_path / ".partial-1-a.nii.gz").touch()
    (tmp_path / "b.nii.gz").touch()
    with pytest.raises(KeyboardInterrupt), folder._cleared(tmp_path):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["b.nii.gz"]
