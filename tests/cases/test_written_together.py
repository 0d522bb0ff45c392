"""Files of one run are written together or not at all, and none of an earlier run stays next to them."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common import RESULTS
from dvg_jax.calibration import Calibration
from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data import drr
from dvg_jax.errors import UserError
from dvg_jax.evaluate import run
from dvg_jax.files import atomic
from dvg_jax.reconstruct import outputs as results
from dvg_jax.reconstruct.outcome import Request
from dvg_jax.report import SPREAD_NOTE, error_note
from dvg_jax.report.content import SHORTFALL
from dvg_jax.viz import save_png
from tests.cases.made_results import a_film, an_outcome
from tests.cases.test_inputs_are_kept import contents
from tests.processes import one_device
from tests.tiny import get_config


@pytest.fixture
def request_all(tmp_path):
    """Request all outputs, in a folder in which an earlier run has left all of its own."""
    film = a_film(tmp_path / "ap.png")
    out = tmp_path / "out"
    earlier = Request(tmp_path / "run", (film,), out / "ct.nii.gz", out / "old", out / "page.html", samples=2)
    results.check(earlier)
    results.write(earlier, an_outcome(earlier))
    return replace(earlier, dicom=out / "new")


def write(request, seed=1):
    results.check(request)
    return results.write(request, an_outcome(request, seed))


def test_nothing_of_an_earlier_patient_stays(request_all):
    out = request_all.output.parent
    for name in ("ct_mean_of_others.nii.gz", "act_mean.nii.gz", "ct_notes.txt"):
        (out / name).write_text("somebody's")
    told = write(replace(request_all, samples=1, dicom=None, report=None))
    left = {path.name for path in out.iterdir()}
    assert left == {
        "ct.nii.gz", "ct.json", "ct_mean_of_others.nii.gz", "act_mean.nii.gz", "ct_notes.txt", "old", "page.html",
    }  # fmt: skip
    for name in ("ct_mean.nii.gz", "ct_std.nii.gz", "ct_unseen.nii.gz"):
        assert f"removed {out / name} of an earlier run" in told
    # Files whose names the user chose are named and not deleted.
    assert f"{out / 'page.html'} is of an earlier run, whose ct.nii.gz this one has replaced" in told
    assert f"{out / 'old'} is of an earlier run, whose ct.nii.gz this one has replaced" in told


def test_one_record_is_of_one_ct(request_all):
    """``ct.nii`` has the record of ``ct.nii.gz``; somebody's own CT of that name stays."""
    out = request_all.output.parent
    told = write(replace(request_all, output=out / "ct.nii", samples=1))
    assert f"removed {out / 'ct.nii.gz'} of an earlier run" in told
    save_nifti(out / "ct.nii.gz", np.zeros((8, 8, 8)), frame_affine((8, 8, 8), 20.0))
    write(replace(request_all, output=out / "ct.nii", samples=1, dicom=None))
    assert (out / "ct.nii.gz").is_file()


@pytest.mark.parametrize("place", ["ct.nii.gz", "ct_std.nii.gz", "page.html", "ct.json"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failure_leaves_the_earlier_set_whole(request_all, monkeypatch, place, error):
    out = request_all.output.parent
    before = contents(out)
    rename = os.replace

    def failing(source, target):
        if os.fspath(target).endswith(place):
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(type(error)):
        write(request_all)
    monkeypatch.undo()
    assert contents(out) == before
    assert sorted(path.name for path in out.iterdir()) == sorted({name.split("/")[0] for name in before})


KILLED = """
import os, signal, sys
from pathlib import Path
from dvg_jax.reconstruct import outputs
from dvg_jax.reconstruct.films import FilmRequest
from dvg_jax.reconstruct.outcome import Request
from tests.cases.made_results import an_outcome

film, out, last = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
rename = os.replace

def killed(source, target):
    if Path(target).name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

os.replace = killed
request = Request(out / "run", (FilmRequest(film, 0.0),), out / "ct.nii.gz", out / "series", out / "page.html")
outputs.check(request)
outputs.write(request, an_outcome(request))
"""


def test_a_run_that_is_killed_between_its_files_can_be_run_again(tmp_path):
    film, out = a_film(tmp_path / "ap.png"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, film.path, out, "ct.json"]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], env=one_device(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (out / "ct.nii.gz").is_file()
    request = Request(out / "run", (film,), out / "ct.nii.gz", out / "series", out / "page.html")
    write(request)
    assert {"ct.nii.gz", "ct.json", "page.html", "series"} <= {path.name for path in out.iterdir()}
    with pytest.raises(UserError, match=r"series is there already; allowed: a new or an empty folder"):
        write(request)  # a series that is whole is not replaced


def test_a_full_disk_is_told_by_the_files_name(request_all, monkeypatch):
    out = request_all.output.parent
    before = contents(out)

    def full(image, path):
        if "_std" in os.fspath(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        nib.Nifti1Image.to_filename(image, path)

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/out/ct_std\.nii\.gz'"):
        write(request_all)
    assert contents(out) == before


def test_folders_made_on_the_way_go_again(tmp_path):
    def interrupted():
        with atomic.together(), atomic.replacing(tmp_path / "a" / "b" / "c.txt") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_the_spread_is_said_to_be_no_error_bar(request_all):
    """The note gives the figures that were measured, and appears wherever the spread does and nowhere else."""
    measured = json.loads((RESULTS / "spread_phantoms.json").read_text())["results"]
    unseen, scans = (
        [np.mean([row[figure] for row in measured[cases]["refine"]]) for figure in ("90 %", "error / spread")]
        for cases in ("unseen", "scans")
    )
    assert f" {unseen[0]:.1f} % of body voxels on phantoms and {scans[0]:.1f} % on real scans" in SPREAD_NOTE
    assert f" {unseen[1]:.0f} to {scans[1]:.0f} times" in SPREAD_NOTE
    told = write(request_all)
    assert any("ct_std.nii.gz" in line and SPREAD_NOTE in line for line in told)
    assert json.loads(request_all.sibling(".json").read_text())["spread"] == SPREAD_NOTE
    assert request_all.report.read_text().count(SPREAD_NOTE) == 1
    write(replace(request_all, samples=1, dicom=None))
    assert SPREAD_NOTE not in request_all.report.read_text() + request_all.sibling(".json").read_text()


def a_calibration(kind="scans"):
    """Return bounds by tissue and support, of one film."""
    pairs = np.tile([10.0, 20.0, 30.0, 40.0], (10, 1)) * np.arange(1, 11)[:, None]
    facts = {"cases": 24, "kind": kind, "samples": 8, "way": {"consistency": "none"}, "stages": {"diffusion": "x"}}
    return Calibration([pairs[:1], pairs[:5], pairs], facts)


@pytest.mark.parametrize("samples", [1, 2])
def test_the_error_map_is_a_file_a_layer_and_a_record(request_all, samples):
    request = replace(request_all, samples=samples)
    results.check(request)
    told = results.write(request, made := an_outcome(request, calibration=a_calibration()))
    path = request.sibling("_error90.nii.gz")
    image, hu = nib.load(path), 2500 * made.samples[0] - 1024
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, nib.load(request.output).affine)
    tissue = np.digitize(np.round(hu), (-950, -190, -29, 151))
    # Rays of the one film cross all voxels of this geometry.
    np.testing.assert_array_equal(image.get_fdata().transpose(2, 1, 0), 30 * (2 * tissue + 2))
    note = error_note(24, "scans")
    assert "24 scans" in note
    assert SHORTFALL not in note
    assert any(str(path) in line and note in line for line in told)
    record = json.loads(request.sibling(".json").read_text())["error_map"]
    assert (record["cases"], record["kind"], record["note"]) == (24, "scans", note)
    page = request.report.read_text()
    assert page.count(note) == 1
    assert '"name": "error map, 90 %", "kind": "amount"' in page
    told = write(replace(request, dicom=None))  # by a model without a calibration
    assert f"removed {path} of an earlier run" in told
    assert "no error map: no reason" in told
    assert json.loads(request.sibling(".json").read_text())["error_map"] == {"none": "no reason"}


def test_a_map_calibrated_on_phantoms_says_by_how_much_it_falls_short_on_patients(request_all):
    measured = json.loads((RESULTS / "spread_phantoms.json").read_text())["results"]
    unseen, scans = (np.mean([row["90 %"] for row in measured[of]["refine, map of one"]]) for of in ("unseen", "scans"))
    assert f" {scans:.0f} % of body voxels of {len(measured['scans']['refine'])} real scans" in SHORTFALL
    assert f" {unseen:.0f} % of body voxels of phantoms" in SHORTFALL
    results.check(request_all)
    results.write(request_all, an_outcome(request_all, calibration=a_calibration("phantoms")))
    assert SHORTFALL in json.loads(request_all.sibling(".json").read_text())["error_map"]["note"]
    assert SHORTFALL in request_all.report.read_text()


def test_a_films_name_that_is_not_utf8_ends_no_run(tmp_path):
    film = a_film(tmp_path / os.fsdecode(b"M\xfcller.png"))
    request = Request(tmp_path, (film,), tmp_path / "ct.nii.gz", tmp_path / "series", tmp_path / "page.html")
    write(request)
    assert request.report.is_file()
    assert len(list(request.dicom.iterdir())) == 16


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    h, w = np.mgrid[:48, :64]
    body = np.hypot((h - 24) / 20, (w - 32) / 28) < 1
    save_nifti(path, np.where(body, 0.0, -1000.0)[None].repeat(40, 0), frame_affine((40, 48, 64), 4.0))
    return path


def render(scan, output, *angles):
    flags = [f"--angle={angle}" for angle in angles]
    drr.main([f"--ct={scan}", *flags, f"--output={output}", "--size=16", "--geometry=covering"])


def test_a_scan_that_shows_no_chest_is_said(scan, tmp_path, capsys):
    render(scan, tmp_path, 0)
    assert f"warning: {scan}: no lungs in the body" in capsys.readouterr().err


def test_films_of_an_earlier_scan_go(scan, tmp_path, capsys):
    render(scan, tmp_path, 0, 45)
    a_film(tmp_path / "xray_007.png")  # a real film, numbered alike
    (tmp_path / "xray_045.txt").write_text("notes")
    render(scan, tmp_path, 0, 90)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"xray_000.png", "xray_090.png", "ct.nii.gz", "xray_007.png", "xray_045.txt"}
    assert f"removed {tmp_path / 'xray_045.png'} of an earlier run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("angles", "said"),
    [
        ((90, 90.00001), "--angle has 90.0 and 90.00001, which show the same view"),
        ((0, 360), "--angle has 0.0 and 360.0"),
        ((-90, 270), "--angle has -90.0 and 270.0"),
        ((0, -0.0), "which show the same view"),
        (("nan",), "--angle is 'nan'; allowed: a number from -360 to 360"),
        (("inf",), "--angle is 'inf'"),
        ((720,), "--angle is '720'"),
    ],
)
def test_angles_of_a_rendering(fails, scan, tmp_path, angles, said):
    flags = [f"--angle={angle}" for angle in angles]
    told = fails(drr.main, f"--ct={scan}", *flags, f"--output={tmp_path / 'films'}", "--size=16")
    assert said in told
    assert not (tmp_path / "films").exists()


def test_a_rendering_that_fails_leaves_no_folder(scan, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match=r"films/ct\.nii\.gz"):
        render(scan, tmp_path / "films", 0)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_leaves_nothing_of_a_longer_one(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "evaluation"
    for name in ("pictures", "scans", "others"):
        (folder / name).mkdir(parents=True)
    ours = ["views.csv", "views.json", "scans/views.csv", "pictures/case_0003.png", "pictures/case_0003_views.png"]
    for name in (*ours, "notes.txt", "others/views.csv", "pictures/case_3.png", "pictures/mine.png"):
        (folder / name).write_text("earlier")

    def measured(*_):
        save_png(np.zeros((2, 2, 3), np.uint8), folder / "pictures" / "case_0000.png")
        return "a table"

    monkeypatch.setattr(run, "_evaluate", measured)
    config = get_config()
    config.evaluate.also = "scans"
    assert run.evaluate(config, tmp_path) == "a table"
    left = ("case_0000", "case_3", "mine")
    assert sorted(contents(folder)) == ["notes.txt", "others/views.csv", *(f"pictures/{name}.png" for name in left)]
    told = capsys.readouterr().err
    assert all(f"removed {folder / name} of an earlier run" in told for name in ours)


def test_a_folder_in_use_is_no_place_for_a_series(request_all):
    with pytest.raises(UserError, match="old is there already"):
        write(replace(request_all, dicom=request_all.output.parent / "old"))
