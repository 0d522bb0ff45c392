"""A scan that ends, stalls or confuses the process that reads it is a refused row; all others are prepared."""

import os

import pytest

from dvg_jax.data.manifest import read_manifest
from dvg_jax.data.scans import dicom, folder
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.workers import Lost, Workers
from tests.cases.attacks import attacked, nothing
from tests.data import made


def _scans(root, names):
    for name in names:
        made.write(root / f"{name}.nii.gz", made.chest_on_couch(), made.affine())
    return root


@pytest.mark.parametrize("at_once", [1, 5])
def test_each_result_is_of_its_own_item(at_once):
    items = [1, "exits", 2, "crashes", 3, "is killed", 4]
    with Workers(2, nothing) as workers:
        found = [result for _, result in sorted(workers.each(attacked, items, at_once), key=lambda pair: pair[0])]
    assert found[::2] == [10, 20, 30, 40]
    said = ["exit code 3", "SIGSEGV", "SIGKILL (was memory short?"]
    assert all(part in lost.reason for part, lost in zip(said, found[1::2], strict=True))


def test_one_that_stalls_is_ended():
    with Workers(1, nothing, limit_s=8) as workers:
        assert list(workers.each(attacked, ["stalls", 2])) == [(0, Lost("not done after 8 s", stalled=True)), (1, 20)]


def test_an_error_that_is_no_fault_of_an_item_is_raised():
    with Workers(1, nothing) as workers, pytest.raises(TypeError) as error:
        list(workers.each(attacked, [None]))
    assert "attacked" in error.value.__notes__[0]


def test_a_scan_that_kills_its_process_is_a_refused_row(tmp_path, monkeypatch):
    source = _scans(tmp_path / "in", ["p1", "p2", "p3"])
    monkeypatch.setattr(folder, "prepare_one", _dies_of_p2)
    rows, _ = prepare_folder(source, Job(tmp_path / "out", Settings(16)), jobs=1)
    assert [row.status for row in rows] == ["ok", "refused", "ok"]
    assert rows[1].reason == "cannot be read (its process ended by exit code 9)"
    assert read_manifest(tmp_path / "out") == rows


def test_headers_that_kill_their_process_are_refused_by_name(tmp_path, monkeypatch):
    made.write_series(tmp_path / "in" / "good", made.chest_on_couch(), made.affine())
    bad = tmp_path / "in" / "bad.dcm"
    bad.write_bytes(b"die")
    monkeypatch.setattr(dicom, "read_header", _dies_of_bad)
    rows, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)), jobs=2)
    assert [(row.source, row.status) for row in rows] == [("bad.dcm", "refused"), ("good", "ok")]
    assert "exit code 9" in rows[0].reason


@pytest.mark.parametrize("error", [OverflowError("too large"), RecursionError(), ZeroDivisionError(), KeyError("x")])
def test_an_unforeseen_exception_is_a_refused_row_that_names_its_kind(tmp_path, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(folder, "prepare_scan", fails)
    (row,), _ = prepare_folder(_scans(tmp_path / "in", ["p1"]), Job(tmp_path / "out", Settings(16)))
    assert (row.status, row.source) == ("refused", "p1.nii.gz")
    assert type(error).__name__ in row.reason


def test_a_disk_that_is_full_is_no_fault_of_a_scan(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(folder, "save_nifti", fails)
    with pytest.raises(OSError, match="No space"):
        prepare_folder(_scans(tmp_path / "in", ["p1"]), Job(tmp_path / "out", Settings(16)))


_prepare_one, _read_header = folder.prepare_one, dicom.read_header


def _dies_of_p2(item, job):
    if item.source.startswith("p2"):
        os._exit(9)
    return _prepare_one(item, job)


def _dies_of_bad(path):
    if path.name == "bad.dcm":
        os._exit(9)
    return _read_header(path)
