"""Bad input: one line that names the thing, exit code 2, nothing left behind."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from dvg_jax.data import prepare
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.evaluate import command as evaluate
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.reconstruct.reconstructor import Reconstructor, load_reconstructor
from dvg_jax.training import command as train

CONFIG = "tests/tiny.py"


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.png"
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    Image.fromarray(ramp).save(path)
    return path


def leftovers(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_missing_film(fails, trained, tmp_path, film):
    said = fails(
        reconstruct.main, "--workdir", trained, "--xray", f"{tmp_path / 'no.png'}@0", "--xray", f"{film}@90",
        "--output", tmp_path / "ct.nii.gz",
    )  # fmt: skip
    assert "no.png" in said
    assert leftovers(tmp_path) == ["film.png"]


def test_film_that_is_no_picture(fails, trained, tmp_path, film):
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    said = fails(
        reconstruct.main, "--workdir", trained, "--xray", f"{text}@0", "--xray", f"{film}@90",
        "--output", tmp_path / "ct.nii.gz",
    )  # fmt: skip
    assert "notes.png" in said
    assert leftovers(tmp_path) == ["film.png", "notes.png"]


@pytest.mark.parametrize("views", [["@0"], ["@0", "@45"], ["@90", "@90"], ["@0", "@90", "@180"]])
def test_wrong_angles(fails, trained, tmp_path, film, views):
    flags = [f"--xray={film}{at}" for at in views]
    said = fails(reconstruct.main, "--workdir", trained, *flags, "--output", tmp_path / "ct.nii.gz")
    assert "angles are" in said
    assert "(0.0, 90.0)" in said
    assert leftovers(tmp_path) == ["film.png"]


def test_angle_that_is_no_number(fails, trained, tmp_path, film):
    said = fails(reconstruct.main, "--workdir", trained, "--xray", f"{film}@front", "--output", tmp_path / "ct.nii.gz")
    assert "FILE@ANGLE" in said


@pytest.fixture
def idle(monkeypatch):
    """The model must not run, not even to align films."""

    def run(*_args, **_options):
        raise AssertionError("the model runs")

    monkeypatch.setattr(Reconstructor, "align", run)
    monkeypatch.setattr(DVG, "reconstruct", run)


@pytest.mark.parametrize("steps", [0, 11, -3])
def test_steps_out_of_range(fails, trained, tmp_path, film, idle, steps):
    said = fails(
        reconstruct.main, "--workdir", trained, f"--xray={film}@0", f"--xray={film}@90", f"--steps={steps}",
        "--output", tmp_path / "ct.nii.gz",
    )  # fmt: skip
    assert f"steps is {steps}; allowed: 1 to 10" in said
    assert leftovers(tmp_path) == ["film.png"]


def test_samples_of_a_model_that_draws_nothing(fails, trained, tmp_path, film, idle, monkeypatch):
    model = load_reconstructor(trained)
    model.dvg = replace(model.dvg, use_diffusion=False)
    monkeypatch.setattr("dvg_jax.reconstruct.run.load_reconstructor", lambda _: model)
    shown = [f"--xray={film}@0", f"--xray={film}@90"]
    said = fails(reconstruct.main, f"--workdir={trained}", *shown, "--samples=2", f"--output={tmp_path / 'ct.nii.gz'}")
    assert "samples is 2; allowed: 1" in said
    assert leftovers(tmp_path) == ["film.png"]


def test_output_of_another_kind(fails, trained, tmp_path, film):
    said = fails(reconstruct.main, "--workdir", trained, f"--xray={film}@0", "--output", tmp_path / "ct.txt")
    assert "ct.txt" in said
    assert ".nii.gz" in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--report=page.txt"], "--report is page.txt; allowed: a name that ends in .html"),
        (["--report=nowhere/page.html"], "allowed: a file in a folder that exists"),
        (["--sampler=euler"], "sampler"),
        (["--samples=65"], "samples"),
        (["--samples=0"], "samples"),
        (["--consistency=refine"], "consistency is refine, and stage refine is not trained"),
        (["--like=a.nii.gz", "--truth=b.nii.gz"], "--like and --truth are both given"),
    ],
)
def test_outputs_are_refused_before_the_work(fails, trained, tmp_path, film, idle, flags, named):
    shown = [f"--xray={film}@0", f"--xray={film}@90"]
    said = fails(reconstruct.main, f"--workdir={trained}", *shown, f"--output={tmp_path / 'ct.nii.gz'}", *flags)
    assert named in said
    assert leftovers(tmp_path) == ["film.png"]


def test_dicom_into_a_folder_that_holds_something(fails, trained, tmp_path, film):
    shown = [f"--xray={film}@0", f"--xray={film}@90"]
    outputs = [f"--output={tmp_path / 'ct.nii.gz'}", f"--dicom={tmp_path}"]
    said = fails(reconstruct.main, f"--workdir={trained}", *shown, *outputs)
    assert "is there already; allowed: a new or an empty folder" in said
    assert leftovers(tmp_path) == ["film.png"]


def test_a_page_of_no_cases(fails, trained, tmp_path):
    page = tmp_path / "page.html"
    flags = [f"--report={page}", "--config.evaluate.pictures=0"]
    said = fails(evaluate.main, f"--config={CONFIG}", f"--workdir={trained}", *flags)
    assert "config.evaluate.pictures is 0" in said
    assert not page.exists()


def test_x_rays_with_nan(trained):
    xrays = np.zeros((2, 16, 16), np.float32)
    xrays[0, 3, 4] = np.nan
    with pytest.raises(UserError, match="not finite"):
        load_reconstructor(trained)(xrays, [0, 90])


def test_x_rays_of_another_size(trained):
    with pytest.raises(UserError, match=r"shape \(2, 8, 8\); allowed: \(2, 16, 16\)"):
        load_reconstructor(trained)(np.zeros((2, 8, 8)), [0, 90])


def test_unknown_config_field(fails, tmp_path):
    said = fails(train.main, f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", "--config.sise=32")
    assert "sise" in said
    assert not (tmp_path / "run").exists()


def test_missing_config_file(fails, tmp_path):
    said = fails(train.main, f"--config={tmp_path / 'no.py'}", f"--workdir={tmp_path / 'run'}")
    assert f"--config is {tmp_path / 'no.py'}, which does not exist; allowed: FILE.py or FILE.py:ARGUMENT" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--config.geometry=fan", "config.geometry is 'fan'; allowed: paper, covering"),
        ("--config.size=18", "config.size is 18; allowed: multiples of 4"),
        ("--config.stage=gan", "config.stage is 'gan'"),
        ("--config.angles=(0.0,400.0)", "config.angles"),
        ("--config.ct_vqgan.train.steps=0", "config.ct_vqgan.train.steps is 0; allowed: a whole number from 1"),
        ("--config.ct_vqgan.train.learning_rate=-1.0", "learning_rate is -1.0"),
        ("--config.ct_vqgan.train.warmup_steps=12", "warmup_steps is 12; allowed: 0 or more, fewer than the 12 steps"),
        ("--config.ct_vqgan.train.batch_size=0", "config.ct_vqgan.train.batch_size is 0; allowed"),
        ("--config.data.source=nowhere", "nowhere"),
        ("--config.sampler.name=euler", "config.sampler.name is 'euler'; allowed: ancestral, ddim, dpmpp_2m"),
        ("--config.sampler.eta=2.0", "eta is 2.0"),
        ("--config.sampler.steps=11", "config.sampler.steps is 11; allowed: 1 to 10"),
    ],
)
def test_config_values(fails, tmp_path, override, named):
    said = fails(train.main, f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", override)
    assert named in said
    assert not (tmp_path / "run").exists()


def test_missing_earlier_stage(fails, tmp_path):
    said = fails(train.main, f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", "--config.stage=diffusion")
    assert "diffusion needs stage ct_vqgan" in said
    assert "config.init.ct_vqgan" in said
    assert not (tmp_path / "run").exists()


def test_folder_of_another_config(fails, trained):
    before = (trained / "config.json").read_bytes()
    said = fails(train.main, f"--config={CONFIG}", f"--workdir={trained}", "--config.seed=5")
    assert "config.seed is 5" in said
    assert (trained / "config.json").read_bytes() == before


def test_empty_run_folder(fails, tmp_path, film):
    said = fails(
        reconstruct.main,
        "--workdir",
        tmp_path,
        f"--xray={film}@0",
        f"--xray={film}@90",
        "--output",
        tmp_path / "ct.nii",
    )
    assert "config.json" in said
    said = fails(evaluate.main, f"--config={CONFIG}", f"--workdir={tmp_path}")
    assert "ct_vqgan" in said
    assert leftovers(tmp_path) == ["film.png"]


def test_corrupt_checkpoint(fails, trained, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(trained, broken)
    for path in (broken / "ct_vqgan" / "model" / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * 64)
    said = fails(evaluate.main, f"--config={CONFIG}", f"--workdir={broken}")
    assert "ct_vqgan/model is damaged" in said


def test_saved_config_that_is_cut_off(trained, tmp_path):
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps(json.loads((trained / "config.json").read_text()))[:-40])
    with pytest.raises(UserError, match="is not a saved config"):
        load_reconstructor(broken)


def test_folder_without_scans(fails, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    said = fails(prepare.main, "--input", empty, "--output", tmp_path / "out")
    assert "empty" in said
    assert not (tmp_path / "out").exists()


def test_flat_nifti_and_nan_nifti_are_listed(monkeypatch, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((8, 8), np.float32), np.eye(4)), scans / "flat.nii.gz")
    nib.save(nib.Nifti1Image(np.full((40, 40, 40), np.nan, np.float32), np.eye(4)), scans / "nan.nii.gz")
    monkeypatch.setattr("sys.argv", ["prepare", "--input", str(scans), "--output", str(tmp_path / "out"), "--size=16"])
    with pytest.raises((SystemExit, UserError)):
        prepare.main(None)
    text = "".join(p.read_text() for p in (tmp_path / "out").glob("manifest.csv"))
    assert "flat.nii.gz" in text
    assert "nan.nii.gz" in text
    assert not list((tmp_path / "out").glob("*.nii.gz"))
