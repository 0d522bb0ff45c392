"""A log keeps every line that was written, whenever its run is killed, and repairs a line that was cut off."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from dvg_jax.training import log
from dvg_jax.training.log import RunLog


def logged(folder: Path, start: int, *steps: int, validates: bool = False) -> bytes:
    """Log these steps, as a run that goes on from ``start``; return the file."""
    record = RunLog(folder, "stage", start, 100, validates)
    for step in steps:
        record.write(step, {"loss": 1.0})
    record.close()
    return (folder / "metrics.jsonl").read_bytes()


def lines(*steps: int) -> bytes:
    return b"".join(json.dumps({"step": step, "loss": 1.0}).encode() + b"\n" for step in steps)


def test_lines_of_steps_that_come_again_are_dropped(tmp_path):
    assert logged(tmp_path, 0, 1, 2, 3, 4) == lines(1, 2, 3, 4)
    assert logged(tmp_path, 2, 3) == lines(1, 2, 3)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "psnr": 9.0}\n')
    assert logged(tmp_path, 3) == lines(1, 2, 3) + b'{"step": 3, "psnr": 9.0}\n'
    assert logged(tmp_path, 3, validates=True) == lines(1, 2, 3)
    assert logged(tmp_path, 0) == b""


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_line_that_was_cut_off_is_repaired(tmp_path, cut):
    (tmp_path / "metrics.jsonl").write_bytes(lines(1, 2)[:-cut])
    assert logged(tmp_path, 5, 6) == lines(*([1, 2] if cut == 1 else [1]), 6)
    (tmp_path / "metrics.jsonl").write_bytes(lines(1) + b"\xff\0" * cut)
    assert logged(tmp_path, 5, 6) == lines(1, 6)


def test_a_kill_while_the_end_is_dropped_loses_nothing(tmp_path, monkeypatch):
    before = logged(tmp_path, 0, 1, 2, 3)

    def killed(path, content):
        path.open("wb").close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            RunLog(tmp_path, "stage", 1, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_long_log_is_opened_at_once_and_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_bytes(lines(*range(50_000)))
    monkeypatch.setattr(log, "replacing", lambda _: pytest.fail("replaced"))
    begin = time.perf_counter()
    RunLog(tmp_path, "stage", 50_000, 60_000).close()
    assert time.perf_counter() - begin < 0.5


def test_each_line_is_written_at_once_and_a_full_disk_names_the_file(tmp_path):
    record = RunLog(tmp_path, "stage", 0, 4)
    record.write(1, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines(1)

    class Full:
        def write(self, line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    record._file.close()
    record._file = Full()
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        record.write(2, {"loss": 1.0})
