"""Every output is tried before anything is computed: a failure gives one line with the reason and leaves no files."""

import errno
import os
import resource

import pytest

from dvg_jax.data import drr
from dvg_jax.errors import UserError
from dvg_jax.evaluate.run import evaluate
from dvg_jax.experiments import command as experiments
from dvg_jax.files.outputs import check_outputs, check_room
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.reconstruct import outputs as results
from dvg_jax.reconstruct import run as reconstruction
from dvg_jax.reconstruct.outcome import Request
from tests.cases.made_results import SIDE, a_film, a_reconstructor
from tests.tiny import get_config

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where root cannot write either")


@pytest.fixture
def film(tmp_path):
    return a_film(tmp_path / "ap.png")


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def try_reconstruct(fails, film, *flags):
    """Return the error line that comes before even the model is looked for."""
    return fails(reconstruct.main, f"--workdir={film.path.parent}", f"--xray={film.path}@0", *flags)


@needs_proc
def test_a_place_where_nobody_can_write(fails, film, tmp_path):
    assert "/proc/ct.nii.gz, which cannot be done (" in try_reconstruct(fails, film, "--output=/proc/ct.nii.gz")
    said = try_reconstruct(fails, film, f"--output={tmp_path / 'ct.nii.gz'}", "--dicom=/proc/series")
    assert "--dicom would write /proc/series, which cannot be done" in said
    said = try_reconstruct(fails, film, f"--output={tmp_path / 'ct.nii.gz'}", "--report=/proc/page.html")
    assert "--report would write /proc/page.html" in said
    with pytest.raises(UserError, match=r"/proc/x/xray_000\.png, which cannot be done"):
        drr.main([f"--ct={film.path}", "--angle=0", "--output=/proc/x", "--size=16"])
    assert names(tmp_path) == ["ap.png"]


def test_a_read_only_file_system(film, tmp_path, monkeypatch):
    """The folder's permissions do not show it to root."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(UserError, match=r"ct\.nii\.gz, which cannot be done \(Read-only file system\)"):
        results.check(Request(tmp_path, (film,), tmp_path / "ct.nii.gz"))


@pytest.mark.parametrize("name", ["ct.json", "ct_mean.nii.gz", "ct_unseen.nii.gz"])
def test_a_folder_in_the_place_of_a_file(fails, film, tmp_path, name):
    (tmp_path / name).mkdir()
    said = try_reconstruct(fails, film, f"--output={tmp_path / 'ct.nii.gz'}")
    assert f"{name}, which is a folder; allowed: a file" in said


def test_a_file_in_the_place_of_a_folder(fails, film, tmp_path):
    said = try_reconstruct(fails, film, f"--output={tmp_path / 'ct.nii.gz'}", f"--dicom={film.path}")
    assert "ap.png is there already; allowed: a new or an empty folder" in said
    for output in (film.path, film.path / "films"):
        said = fails(drr.main, "--ct=scan.nii.gz", "--angle=0", f"--output={output}", "--size=16")
        assert "which cannot be done (Not a directory)" in said
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation").write_text("a file")
    with pytest.raises(UserError, match=r"volumes\.csv, which cannot be done \(Not a directory\)"):
        evaluate(get_config(), tmp_path / "run")
    (tmp_path / "run" / "report").write_text("a file")
    said = fails(experiments.main, "--table=I", f"--workdir={tmp_path / 'run'}")
    assert "table_I.md, which cannot be done (Not a directory)" in said


@pytest.mark.parametrize("length", [245, 251])
def test_a_name_that_is_too_long(film, tmp_path, length):
    """The long name is that of a derived file or the output's own; one that just fits gets a short temporary name."""
    stem = "x" * length
    with pytest.raises(UserError, match=r"cannot be done \(File name too long\)"):
        results.check(Request(tmp_path, (film,), tmp_path / f"{stem}.nii.gz"))
    with pytest.raises(UserError, match=r"cannot be done \(File name too long\)"):
        results.check(Request(tmp_path, (film,), tmp_path / "ct.nii.gz", dicom=tmp_path / ("x" * 300)))
    results.check(Request(tmp_path, (film,), tmp_path / f"{'x' * 230}.nii.gz"))
    assert names(tmp_path) == ["ap.png"]


def test_a_disk_without_room(film, tmp_path):
    """A limit on the size of files stands for a full disk or a quota: neither shows in permissions."""
    request = Request(tmp_path, (film,), tmp_path / "ct.nii.gz", report=tmp_path / "page.html")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"--report would write .*page\.html of \d+\.\d MB, which cannot be done"):
            results.check_room(request, (SIDE, SIDE, SIDE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["ap.png"]


def test_room_is_wanted_of_all_outputs_at_once(tmp_path, monkeypatch):
    free = [1000]

    def allocate(_, __, size):
        free[0] -= size
        if free[0] < 0:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    check_room([("--a", tmp_path / "a", 600)])
    with pytest.raises(UserError, match=r"--b would write .*/b of"):
        check_room([("--a", tmp_path / "a", 300), ("--b", tmp_path / "b", 300)])


def test_it_is_looked_at_before_the_model_runs(film, tmp_path, monkeypatch):
    """The check comes after films and model are read, since they decide how much is written."""
    asked = []
    untrained = a_reconstructor()

    def full(request, shape):
        asked.append(shape)
        raise UserError("no room")

    monkeypatch.setattr(results, "check_room", full)
    monkeypatch.setattr(reconstruction, "load_reconstructor", lambda _: untrained)
    with pytest.raises(UserError, match="no room"):
        reconstruction.reconstruct(Request(tmp_path, (film, film._replace(angle=90.0)), tmp_path / "ct.nii.gz"))
    assert asked == [(SIDE, SIDE, SIDE)]


def test_folders_tried_are_not_left(tmp_path):
    check_outputs({"--output": [tmp_path / "a" / "b" / "c.png"]}, {})
    assert not names(tmp_path)
