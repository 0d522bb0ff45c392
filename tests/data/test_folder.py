"""Many processes, and what happens when they are stopped."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dvg_jax.data.manifest import NAME, read_manifest
from dvg_jax.data.prepare import main
from dvg_jax.data.scans import folder
from dvg_jax.data.scans.cube import prepare_volume
from dvg_jax.data.scans.folder import CHANGES, Job, Settings, prepare_folder
from dvg_jax.data.scans.read import load_scan
from dvg_jax.data.scans.splits import SplitRule
from dvg_jax.errors import UserError
from tests.data import made

HU, AFFINE = made.chest_on_couch(), made.affine()


def _scans(root, count):
    for number in range(count):
        hu = HU.copy()
        hu[:, 20:24, 10 + number] = 300
        made.write(root / f"p{number}.nii.gz", hu, AFFINE)
    return root


def _digests(output):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.glob("*.nii.gz")}


def _command(source, output, *flags):
    run = [sys.executable, "-m", "dvg_jax.data.prepare", "--input", str(source), "--output", str(output), *flags]
    return subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_process_and_two_write_the_same(tmp_path):
    source = _scans(tmp_path / "in", 3)
    one, _ = prepare_folder(source, Job(tmp_path / "one", Settings(32)))
    two, _ = prepare_folder(source, Job(tmp_path / "two", Settings(32)), jobs=2)
    assert one == two
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    assert (tmp_path / "one" / NAME).read_bytes() == (tmp_path / "two" / NAME).read_bytes()


def test_workers_do_not_import_jax():
    code = "import sys, dvg_jax.data.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on(tmp_path, stop):
    source, output = _scans(tmp_path / "in", 40), tmp_path / "out"
    process = _command(source, output, "--size=96", "--jobs=2")
    _wait_for(lambda: (output / NAME).is_file() and len(read_manifest(output)) >= 2)
    process.send_signal(stop)  # to the first process alone: its workers must end by themselves
    said = process.communicate(timeout=180)[1]
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL), said
    _wait_for(lambda: not _running(process.pid))
    done = read_manifest(output)
    assert 2 <= len(done) < 40
    assert "Traceback" not in said
    if stop == signal.SIGINT:
        assert said.splitlines()[-1] == "stopped; what is done is kept, the same command goes on"
        assert not list(output.glob(".*"))
    before = {row.file: (output / row.file).stat().st_mtime_ns for row in done}
    for path in list(source.iterdir())[30:]:
        if path.name not in {row.source for row in done}:
            path.unlink()
    (output / ".partial-1-x.nii.gz").write_bytes(b"half")
    rows, _ = prepare_folder(source, Job(output, Settings(96)), jobs=2)
    assert {row.status for row in rows} == {"ok"}
    assert before == {name: (output / name).stat().st_mtime_ns for name in before}
    assert not list(output.glob(".*"))


def _running(session):
    """Processes of a session that are not yet gone."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(status)
    return found


def test_a_series_that_cannot_be_read_makes_way_for_the_next(tmp_path, monkeypatch):
    made.write_series(tmp_path / "in" / "best", HU, AFFINE)
    made.write_series(tmp_path / "in" / "next", HU[:20], AFFINE)
    once = folder.prepare_scan

    def fails_on_the_best(scan, *options):
        if scan.hu.shape[0] == 36:
            raise UserError("pixels are damaged")
        return once(scan, *options)

    monkeypatch.setattr(folder, "prepare_scan", fails_on_the_best)
    (best, following), _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert (best.status, best.reason) == ("refused", "pixels are damaged")
    assert following.status == "ok"


def test_one_series_a_patient_or_all(tmp_path):
    made.write_series(tmp_path / "in" / "best", HU, AFFINE)
    made.write_series(tmp_path / "in" / "next", HU[:33], AFFINE)
    job = Job(tmp_path / "out", Settings(16))
    rows, _ = prepare_folder(tmp_path / "in", job)
    assert [row.status for row in rows] == ["ok", "passed over"]
    assert rows[0].series != rows[1].series
    every, _ = prepare_folder(tmp_path / "in", job, all_series=True)
    assert [row.status for row in every] == ["ok", "ok"]
    assert {row.split for row in every} == {"train"}
    assert prepare_folder(tmp_path / "in", job)[0] == rows


def test_lists_make_the_split_and_changes_are_written(tmp_path, capsys):
    source, output = _scans(tmp_path / "in", 4), tmp_path / "out"
    (tmp_path / "train.txt").write_text("p0.2000\np1.2000\np2.2000\n")
    (tmp_path / "test.txt").write_text("p2.2001\n")
    lists = [f"--{split}_list={tmp_path / split}.txt" for split in ("train", "test")]
    main([f"--input={source}", f"--output={output}", "--size=16", "--jobs=1", *lists])
    assert [row.split for row in read_manifest(output)] == ["train", "train", "test", ""]
    said = "p2: in train and test; kept in test, 1 scan leaves train"
    assert said in (output / CHANGES).read_text().splitlines()
    assert f"split: {said}" in capsys.readouterr().out
    main([f"--input={source}", f"--output={output}", "--size=16", "--jobs=1", "--val_fraction=0.3"])
    assert {row.split for row in read_manifest(output)} == {"train", "val", "test"}
    assert not (output / CHANGES).exists()


def test_lists_of_others_are_refused_before_the_work(tmp_path):
    rule = SplitRule(lists={"test": ("q7",)})
    with pytest.raises(UserError, match="none of its 1 lines"):
        prepare_folder(_scans(tmp_path / "in", 1), Job(tmp_path / "out", Settings(16)), rule)
    assert not (tmp_path / "out").exists()


def test_pictures_are_made_also_for_what_is_there(tmp_path):
    source = _scans(tmp_path / "in", 1)
    (row,), _ = prepare_folder(source, Job(tmp_path / "out", Settings(32)))
    written = (tmp_path / "out" / row.file).stat().st_mtime_ns
    prepare_folder(source, Job(tmp_path / "out", Settings(32), pictures=True))
    assert (tmp_path / "out" / row.file).stat().st_mtime_ns > written
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / f"{row.file[:-7]}.png"), int)
    left, right = np.array_split(picture[24:, :, 0], 2, axis=1)  # under the names: the scan, and without its couch
    assert left.sum() > right.sum() > 0


def test_x2ct_volumes_keep_their_sides_and_patients(tmp_path):
    hu = HU.copy()
    hu[18:, :30, 33:] = -1000  # nothing at the upper left front: no two ends are alike
    scan = load_scan(made.write(tmp_path / "p.nii", hu, AFFINE))
    volume, _ = prepare_volume(scan, 64)
    for name in ("LIDC-IDRI-0442.20000101.30178.1.1", "LIDC-IDRI-0442.20000102.5405.1.1", "LIDC-IDRI-0003.2000.1.1.1"):
        (tmp_path / "in" / name).mkdir(parents=True)
        with h5py.File(tmp_path / "in" / name / "ct_xray_data.h5", "w") as file:
            file["ct"], file["xray1"] = np.rint(volume[::-1] * 2500).astype(np.int16), np.zeros((8, 8))
    rows, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(32)))
    assert [row.patient for row in rows] == ["lidc-idri-0003", "lidc-idri-0442", "lidc-idri-0442"]
    assert rows[1].split == rows[2].split
    assert "head to foot (flipped here)" in rows[0].checks
    assert "HU + 1024 are assumed" in rows[0].checks
    again = load_scan(tmp_path / "out" / rows[0].file)
    direct, _ = prepare_volume(scan, 32)
    # Two steps of averaging instead of one: edges differ a little, a flipped axis would by far more.
    differs = [np.abs((turned + 1024) / 2500 - direct).mean() for turned in (again.hu, *_flips(again.hu))]
    assert differs[0] < 0.01
    assert min(differs[1:]) > 2 * differs[0]
    np.testing.assert_allclose(again.spacing_mm, 10)


def _flips(volume):
    return [np.flip(volume, axis) for axis in range(3)]


def test_hdf5_of_another_kind_or_without_h5py_is_one_line(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros((9, 9, 9))
    with pytest.raises(UserError, match="no three-dimensional data set 'ct'"):
        load_scan(tmp_path / "other.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'dvg-jax\[x2ct\]'"):
        load_scan(tmp_path / "other.h5")


def test_the_affine_leads_back_to_the_scan(tmp_path):
    """A prepared file overlays its source in any viewer: both NIfTI headers put the spine in the same place."""
    source = made.write(tmp_path / "in" / "p1.nii.gz", HU, AFFINE)
    (row,), _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(80, 320)))
    prepared, scan = nib.load(tmp_path / "out" / row.file), load_scan(source)
    spine = np.argwhere(prepared.get_fdata() > 400)
    world = nib.affines.apply_affine(prepared.affine, spine.mean(0))
    expected = nib.affines.apply_affine(scan.affine, np.argwhere(scan.hu > 400).mean(0))
    np.testing.assert_allclose(world, expected, atol=2)
