"""A second input does not push the scans of the first out of an output, nor do two runs work in one at once."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dvg_jax.data.manifest import write_manifest
from dvg_jax.data.scans import published
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from dvg_jax.files.lock import exclusive
from tests.data import made

HU = made.chest_on_couch()


def _scans(root, names):
    for name in names:
        made.write(root / f"{name}.nii.gz", HU, made.affine())
    return root


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "out", Settings(8))


def test_a_second_input_is_refused_and_the_first_named(tmp_path, job):
    first, second = _scans(tmp_path / "first", ["a1", "a2"]), _scans(tmp_path / "second", ["b1", "a2x"])
    rows, _ = prepare_folder(first, job)
    before = {path.name: path.read_bytes() for path in job.output.iterdir()}
    with pytest.raises(UserError, match=rf"out holds the scans of {first}; allowed: that input, another --output"):
        prepare_folder(second, job)
    assert before == {path.name: path.read_bytes() for path in job.output.iterdir()}
    write_manifest(job.output, [replace(row, input="") for row in rows])  # as an earlier version wrote it
    with pytest.raises(UserError, match=r"of another folder, such as a1\.nii\.gz"):
        prepare_folder(second, job)


def test_the_released_preprocessing_is_not_continued_by_another_nor_continues_one(tmp_path, job):
    source = _scans(tmp_path / "in", ["a1", "a2"])
    as_released = replace(job, settings=replace(job.settings, preset="published"))
    rows, _ = prepare_folder(source, as_released)
    assert all(" preset=published " in row.settings for row in rows)
    before = {path.name: path.read_bytes() for path in job.output.iterdir()}
    expected = published.prepare_ct(HU[::-1] + 1024, (8, 8, 8))[::-1]
    found = load_scan(job.output / rows[0].file).hu
    np.testing.assert_allclose((found + 1024) / 2500, expected, atol=0.51 / 2500)  # rounded to whole HU
    assert "were taken for one" in rows[0].checks
    with pytest.raises(UserError, match=r"--preset is x2ct, but .*out holds scans of published; allowed: that preset"):
        prepare_folder(source, job)
    assert before == {path.name: path.read_bytes() for path in job.output.iterdir()}
    with pytest.raises(UserError, match="field_mm is 300; allowed: 320"):
        Settings(8, 300, "published")


def test_the_same_input_may_move_grow_and_change(tmp_path, job):
    first = _scans(tmp_path / "first", ["a1", "a2"])
    prepare_folder(first, job)
    moved = first.rename(tmp_path / "moved")
    stamps = {path.name: path.stat().st_mtime_ns for path in job.output.glob("*.nii.gz")}
    prepare_folder(moved, job)
    assert stamps == {path.name: path.stat().st_mtime_ns for path in job.output.glob("*.nii.gz")}
    for path in moved.iterdir():
        path.unlink()
    rows, _ = prepare_folder(_scans(moved, ["b1"]), job)  # the same place, whatever it contains now
    assert [row.source for row in rows] == ["b1.nii.gz"]


def test_links_to_two_sets_in_one_folder_are_one_input(tmp_path, job):
    for name in ("a", "b"):
        _scans(tmp_path / name, [f"{name}1"])
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / name).symlink_to(tmp_path / name)
    rows, _ = prepare_folder(tmp_path / "both", job)
    assert [row.source for row in rows] == ["a/a1.nii.gz", "b/b1.nii.gz"]


def test_a_second_run_in_the_same_output_is_one_line_and_touches_nothing(tmp_path, job):
    source = _scans(tmp_path / "in", ["a1"])
    with exclusive(job.output, "preparation"):
        line = rf"out: another preparation is running in it \(pid {os.getpid()}\); allowed: one at a time"
        with pytest.raises(UserError, match=line):
            prepare_folder(source, job)
    assert not job.output.exists()
    prepare_folder(source, job)
    assert not list(job.output.glob(".*"))


def test_a_refused_run_leaves_no_folder(tmp_path, job):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no scan"):
        prepare_folder(tmp_path / "in", job)
    assert not job.output.exists()
    shutil.copy(__file__, tmp_path / "out")
    with pytest.raises(UserError, match="out: cannot be made or written"):
        prepare_folder(_scans(tmp_path / "in", ["a1"]), job)
