"""Files that this program wrote are never prepared as scans, wherever they lie, and a remark says so."""

import gzip
import shutil

import numpy as np
import pytest

from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import NAME
from dvg_jax.data.prepare import main
from dvg_jax.data.scans import own
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.index import find_scans
from dvg_jax.errors import UserError
from dvg_jax.reconstruct import dicom
from tests.data import made

JOB = Settings(8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Write two scans, and a prepared one inside their folder."""
    root = tmp_path_factory.mktemp("own") / "in"
    for name in ("p1", "p2"):
        made.write(root / f"{name}.nii.gz", made.chest_on_couch(), made.affine())
    prepare_folder(root, Job(root / "deep" / "prep8", JOB))
    return root


@pytest.fixture
def scans(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "in")


def _sources(rows, status="ok"):
    return [row.source for row in rows if row.status == status]


def test_a_second_output_within_the_input_takes_nothing_from_the_first(scans, capsys):
    main(["--input", str(scans), "--output", str(scans / "prep12"), "--size=12", "--jobs=1"])
    said = capsys.readouterr().out
    assert "passed over: deep/prep8: a folder that dvg_jax.data.prepare wrote" in said
    assert "2 prepared" in said
    rows, _ = prepare_folder(scans, Job(scans / "prep12", Settings(12)))
    assert _sources(rows) == ["p1.nii.gz", "p2.nii.gz"]
    assert _sources(rows, "passed over") == ["deep/prep8", "prep12"]
    assert {row.split for row in rows if row.status == "ok"} == {"train", "test"}


def test_a_prepared_folder_is_refused_as_input_and_an_input_as_output(scans, tmp_path):
    before = sorted(scans.rglob("*"))
    with pytest.raises(UserError, match=r"prep8: a folder that .* wrote .*; allowed: a folder of scans"):
        prepare_folder(scans / "deep" / "prep8", Job(tmp_path / "out", JOB))
    with pytest.raises(UserError, match="is the input itself; allowed: a folder inside it or elsewhere"):
        prepare_folder(scans, Job(scans / "deep" / "..", JOB))
    assert not (tmp_path / "out").exists()
    assert sorted(scans.rglob("*")) == before


def test_a_link_to_a_prepared_folder_is_no_way_round(scans, tmp_path):
    moved = scans / "deep" / "prep8"
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    found = {item.source: item for item in find_scans(scans)}
    assert found["deep/prep8"].passed_over
    assert [name for name, item in found.items() if not item.reason] == ["p1.nii.gz", "p2.nii.gz"]


def test_prepared_files_without_their_manifest_are_known_by_their_header(scans, tmp_path):
    folder = scans / "deep" / "prep8"
    (folder / NAME).unlink()
    packed = next(folder.glob("p1-*.nii.gz"))
    (folder / "plain.nii").write_bytes(gzip.decompress(packed.read_bytes()))
    rows, _ = prepare_folder(scans, Job(tmp_path / "out", JOB))
    assert _sources(rows) == ["p1.nii.gz", "p2.nii.gz"]
    assert len(_sources(rows, "passed over")) == 3
    assert {row.reason for row in rows if row.status == "passed over"} == {own.WRITTEN}


def test_renderings_and_reconstructions_are_passed_over(scans, tmp_path):
    hu, affine = made.chest_on_couch(), made.affine()
    save_nifti(scans / "films" / "ct.nii.gz", hu, affine, "dvg_jax.data.drr")
    save_nifti(scans / "r" / "ct.nii.gz", hu, affine, f"{dicom.NOTICE} dvg_jax 0.1.0 seed 0")
    save_nifti(scans / "p3.nii.gz", hu, affine, "somebody's own note")
    dicom.save_series(scans / "series", hu[:12], affine, [], {})
    found = {item.source: item.reason for item in find_scans(scans)}
    assert {name for name, reason in found.items() if not reason} == {"p1.nii.gz", "p2.nii.gz", "p3.nii.gz"}
    assert found["films/ct.nii.gz"] == found["r/ct.nii.gz"] == found["series"] == own.WRITTEN


def test_a_folder_with_nothing_else_holds_no_scan(tmp_path):
    save_nifti(tmp_path / "in" / "ct.nii.gz", np.zeros((9, 9, 9)), made.affine(), own.PREPARED_NOTE)
    with pytest.raises(UserError, match=r"holds no scan .* but ct.nii.gz, written by dvg_jax"):
        prepare_folder(tmp_path / "in", Job(tmp_path / "out", JOB))


def test_somebody_elses_manifest_marks_nothing(tmp_path):
    made.write(tmp_path / "in" / "sub" / "p1.nii.gz", made.chest_on_couch(), made.affine())
    for place in (tmp_path / "in", tmp_path / "in" / "sub"):
        (place / NAME).write_text("patient,file,series\np1,p1.nii.gz,1\n")
    (item,) = find_scans(tmp_path / "in")
    assert not item.reason
