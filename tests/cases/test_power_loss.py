"""A file is on the disk when it takes its name, leftovers go, and readers always find a whole model."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.files import durable, partial
from dvg_jax.files.atomic import new_folder, replacing, together
from dvg_jax.files.partial import clear_partials, hidden
from dvg_jax.training import checkpoint
from dvg_jax.training.checkpoint import load_model, save_model

LOOKS = 1000


@pytest.fixture
def moments(monkeypatch):
    """List syncs and renames in their order: ("sync" or "name", the file's name)."""
    passed, rename, exchange = [], os.replace, durable._exchange
    monkeypatch.setattr(
        os, "fsync", lambda number: passed.append(("sync", Path(os.readlink(f"/proc/self/fd/{number}"))))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (rename(a, b), passed.append(("name", Path(b))))[0])
    monkeypatch.setattr(durable, "_exchange", lambda a, b: (exchange(a, b), passed.append(("name", Path(b))))[0])
    return passed


def write(path):
    with replacing(path) as part:
        part.write_text("new")


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_its_name_after(moments, tmp_path):
    write(tmp_path / "a.txt")
    assert moments == [("sync", hidden(tmp_path / "a.txt")), ("name", tmp_path / "a.txt"), ("sync", tmp_path)]


def test_so_are_a_folder_and_files_of_one_run(moments, tmp_path):
    with together():
        write(tmp_path / "a.txt")
        with new_folder(tmp_path / "b") as part:
            (part / "c").write_text("new")
    synced = [hidden(tmp_path / "a.txt"), hidden(tmp_path / "b") / "c", hidden(tmp_path / "b")]
    named = [tmp_path / "a.txt", tmp_path / "b"]
    assert moments == [*(("sync", path) for path in synced), *(("name", path) for path in named), ("sync", tmp_path)]


def test_so_is_a_model(moments, tmp_path):
    folder = tmp_path / "model"
    for step in (1, 2):
        moments.clear()
        save_model(folder, {"w": np.ones(3)}, {"steps": step})
    place = moments.index(("name", folder))
    files = {path.relative_to(folder) for path in folder.rglob("*")}
    before = {path.relative_to(hidden(folder)) for what, path in moments[:place] if path.is_relative_to(hidden(folder))}
    assert files <= before
    assert moments[place + 1 :] == [("sync", tmp_path)]


def test_a_disk_that_fails_is_told_and_the_old_file_stays(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")

    def broken(number):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=r"Input/output error: '.*/a\.txt'"):
        write(tmp_path / "a.txt")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def of(path, pid, word="partial", machine=None):
    """Return the hidden name that another process gives."""
    name = hidden(path, word).name.replace(f"-{os.getpid()}.", f"-{pid}.")
    return path.with_name(name.replace(f".{partial._machine()}-", f".{machine or partial._machine()}-"))


@pytest.fixture
def ended():
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_ended_processes_left_is_cleared(tmp_path, ended):
    path = tmp_path / "a.txt"
    gone = [of(path, ended), of(path, ended, "partial-try"), of(tmp_path / "b", ended), of(path, ended, partial.OLD)]
    stays = [
        of(path, os.getppid()),  # it runs
        of(path, ended, machine="000000"),  # nobody here can tell
        of(tmp_path / "c.txt", ended, partial.OLD),  # a file that was put aside, and its name was never taken
        tmp_path / ".partial-1-a.txt",
        tmp_path / "notes.txt",
    ]
    for left in (path, *gone, *stays):
        left.write_text("half")
    gone[2].unlink()
    (gone[2] / "c").mkdir(parents=True)
    write(path)
    assert set(tmp_path.iterdir()) == {path, *stays}


def test_a_killed_writers_model_is_cleared_by_the_next(tmp_path, ended):
    folder = tmp_path / "model"
    for name in (of(folder, ended), of(folder, ended).with_name(of(folder, ended).name + ".orbax-checkpoint-tmp-1")):
        (name / "variables").mkdir(parents=True)
    save_model(folder, {"w": np.ones(3)}, {})
    assert list(tmp_path.iterdir()) == [folder]


def test_what_had_this_processs_number_before_is_no_hindrance(tmp_path):
    """Each start of a container may give its process the number of the last one."""
    hidden(tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a") as part:
        (part / "b").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_names_of_any_length_are_cleared(tmp_path, ended):
    path = tmp_path / ("n" * 250 + ".txt")
    of(path, ended).touch()
    clear_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_reader_always_finds_one_of_two_models(tmp_path):
    folder, over, written = tmp_path / "model", threading.Event(), []

    def replace():
        while not over.is_set():
            step = len(written) % 2
            save_model(folder, {"w": np.full(3, step, np.float32)}, {"steps": step})
            written.append(step)

    save_model(folder, {"w": np.zeros(3, np.float32)}, {"steps": 0})
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        looks = [(folder / "digests.json").is_file() for _ in range(LOOKS)]
        seen = set()
        while len(seen) < 2 or len(written) < 10:
            looks.append((folder / "digests.json").is_file())
            variables, facts = load_model(folder)
            np.testing.assert_array_equal(variables["w"], facts["steps"])
            seen.add(facts["steps"])
    finally:
        over.set()
        writer.join()
    assert all(looks)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("fails", [False, True])
def test_without_an_exchange_names_change_one_after_the_other(tmp_path, monkeypatch, fails):
    folder = tmp_path / "model"
    save_model(folder, {"w": np.ones(3)}, {"steps": 1})
    monkeypatch.setattr(durable, "_exchange", lambda *_: False)
    rename = Path.rename

    def failing(self, target):
        if fails and target == folder and self.name.startswith(".partial-") and "-old-" not in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    try:
        save_model(folder, {"w": np.ones(3)}, {"steps": 2})
    except KeyboardInterrupt:
        assert fails
    assert load_model(folder)[1] == {"steps": 1 if fails else 2}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_model_that_changes_all_the_time_is_no_endless_loop(tmp_path, monkeypatch):
    numbers = iter(range(10**6))
    monkeypatch.setattr(checkpoint, "_identity", lambda folder: (next(numbers),))
    save_model(tmp_path / "model", {"w": np.ones(3)}, {})
    with pytest.raises(UserError, match="was replaced 20 times while it was read"):
        load_model(tmp_path / "model")


def test_a_link_to_a_model_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    for step in (1, 2):
        save_model(tmp_path / "model", {"w": np.ones(3)}, {"steps": step})
        assert load_model(tmp_path / "model")[1] == {"steps": step}
    assert (tmp_path / "model").is_symlink()
