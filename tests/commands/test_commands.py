"""The commands on a trained folder: what they write, and that the result lies where the patient does."""

import base64
import csv
import gzip
import itertools
import json
import re
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pydicom
import pytest

from dvg_jax import dvg, load_reconstructor
from dvg_jax.calibration import SHARES
from dvg_jax.config import save
from dvg_jax.config.build import build_dvg
from dvg_jax.consistency import MODES, film_residual, whole_rays
from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.films.read import write_picture
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.data.scans.read import load_scan
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError
from dvg_jax.evaluate import command as evaluate
from dvg_jax.methods.yardsticks import YARDSTICKS
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.reconstruct.reconstructor import Reconstructor, sample_keys
from dvg_jax.training.calibrate import calibrate
from dvg_jax.training.checkpoint import save_model
from dvg_jax.training.stop import StopRequest
from dvg_jax.training.workdir import load_config
from dvg_jax.xray.views import PROJECTORS, minmax
from tests.tiny import get_config

CONFIG = "tests/tiny.py"


@pytest.fixture(scope="module")
def reconstructor(trained):
    return load_reconstructor(trained)


@pytest.fixture(scope="module")
def xrays():
    return np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)


REFINER = {"widths": (4,), "num_groups": 2}


@pytest.fixture(scope="module")
def refined(trained, tmp_path_factory):
    """Return the trained folder with a refiner whose last layer is random, so that it changes a CT visibly."""
    folder = tmp_path_factory.mktemp("refined")
    for stage in trained.iterdir():
        if stage.name not in ("config.json", "evaluation"):
            (folder / stage.name).symlink_to(stage)
    config = get_config()
    config.refine.network.update(REFINER)
    save(config, folder / "config.json")
    refinement = build_dvg(config).refinement
    ct, views = jnp.full((1, 16, 16, 16, 1), 0.5), jnp.ones((1, 2, 16, 16, 1))
    x = refinement.features(ct, views, (0.0, 90.0))
    params = jax.jit(refinement.refiner.init)(jax.random.key(0), x)["params"]
    save_model(folder / "refine" / "model", {"params": {"round_0": params}}, {"steps": 1, "config": {}})
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return a prepared folder with two patients to test on and one to train on."""
    folder = tmp_path_factory.mktemp("prepared") / "scans"
    facts = dict.fromkeys(("series", "spacing", "orientation", "checks", "reason", "stamp", "settings"), "")
    splits, rows = ("test", "train", "test"), []
    for i, split in enumerate(splits):
        hu = np.random.default_rng(i).uniform(-1000, 400, (16, 16, 16))
        save_nifti(folder / f"{i}.nii.gz", hu, frame_affine(hu.shape, 20.0))
        rows.append(Row(f"p{i}", file=f"{i}.nii.gz", source=f"{i}.nii.gz", split=split, status="ok", **facts))
    write_manifest(folder, rows)
    return folder


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def calibrated(refined, monkeypatch):
    """Calibrate the refined folder as if every result were water."""
    config = load_config(refined)
    config.consistency.mode = "refine"
    config.calibration.update({"cases": 19, "samples": 1})
    water = jnp.full((1, 16, 16, 16, 1), 0.41)
    with monkeypatch.context() as patched, StopRequest() as stop:
        patched.setattr(dvg.DVG, "reconstruct", lambda *_: water)
        calibrate(config, build_dvg(config), refined, stop)


def test_evaluate_writes_tables_and_pictures(refined, calibrated, scans, tmp_path, capsys):
    page = tmp_path / "page.html"
    how = ["--config.refine.network.widths=(4,)", "--config.refine.network.num_groups=2"]
    also = ["--config.consistency.mode=refine", f"--config.evaluate.also={scans}"]
    also += ["--config.evaluate.stress=shift_mm:10,curve:0.3"]
    evaluate.main([f"--config={CONFIG}", f"--workdir={refined}", f"--report={page}", *how, *also])
    told = capsys.readouterr().out
    folder = refined / "evaluation"
    rows = read_table(folder / "volumes.csv")
    methods = {row["method"] for row in rows}
    made = (*YARDSTICKS, "DVG-Net", "DVG-Diffusion")
    corrected = {f"{title} + consistency" for title in made} | {"DVG-Net + refiner", "DVG-Diffusion + refiner"}
    assert methods == {"CT VQGAN of the truth", *made, *corrected}
    # Two tables of CTs and one of reprojections, of each of two test sets; for the last method two of its error map.
    counts = {method: len(re.findall(rf"^\| {re.escape(method)} +\|", told, re.MULTILINE)) for method in methods}
    last = "DVG-Diffusion + refiner"
    assert counts == dict.fromkeys(methods, 6) | {last: 10}
    strained = read_table(folder / "stress.csv")
    made_of_films = methods - {"CT VQGAN of the truth"}
    trials = {"shift_mm 10", "curve 0.3"}
    assert {row["method"] for row in strained} == {f"{trial}: {name}" for trial in trials for name in made_of_films}
    for row in strained:
        gained = float(row["psnr_after"]) - float(row["psnr_before"])
        assert float(row["psnr_gained"]) == pytest.approx(gained, abs=1e-4)
        moved = abs(float(row["psnr_before"]) - float(row["psnr_before_unmoved"]))
        assert (moved > 1e-3) == row["method"].startswith("shift")
    assert "Error map, calibrated on 19 phantoms: 2 unseen cases" in told
    for row in read_table(folder / "coverage.csv") + read_table(folder / "scans" / "coverage.csv"):
        for figure, where in itertools.product(("covered_{}", "half_width_{}_hu"), ("body", "all")):
            rising = [float(row[f"{figure.format(share)}_{where}"]) for share in SHARES]
            assert 0 <= rising[0] <= rising[1] <= rising[2] <= rising[3]
        assert (row["method"], float(row["covered_95_all"]) <= 100) == (last, True)
    assert len(rows) == len(methods) * get_config().evaluate.cases
    assert all(np.isfinite(float(row["psnr"])) for row in rows)
    assert {row["method"] for row in read_table(folder / "views.csv")} == {"DVG-Net, view at 45 degrees"}
    control = "DVG-Diffusion + refiner of another patient"
    assert {row["method"] for row in read_table(folder / "reprojections.csv")} == methods | {control}
    shown = {row["method"]: float(row["shown_line_error"]) for row in read_table(folder / "reprojections.csv")}
    assert shown["DVG-Net + consistency"] < shown["DVG-Net"]
    others = read_table(folder / "scans" / "volumes.csv")
    assert {row["patient"] for row in others} == {"p0", "p2"}
    assert {row["method"] for row in others} == methods
    assert len(list(folder.rglob("*.png"))) == 2
    (case,) = page_data(page)["cases"]
    names = [layer["name"] for layer in case["layers"] if not layer["name"].startswith("error")]
    assert names == ["DVG-Diffusion + refiner", "DVG-Diffusion", "DVG-Net", "CT VQGAN of the truth", "truth"]
    assert f"<td>{float(rows[0]['psnr']):.2f}</td>" in page.read_text()


def test_reconstruct_writes_hu_with_an_affine_and_a_record(trained, tmp_path, xrays):
    for name, view in zip(("ap", "lat"), xrays, strict=True):
        write_picture(tmp_path / f"{name}.png", view)
    output = tmp_path / "ct.nii.gz"
    films = [f"--xray={tmp_path / 'ap.png'}@0", f"--xray={tmp_path / 'lat.png'}@90"]
    how = ["--frame=none", "--align=model", "--seed=3", "--steps=3", "--sampler=dpmpp_2m", "--consistency=films"]
    reconstruct.main([f"--workdir={trained}", *films, f"--output={output}", *how])
    image = nib.load(output)
    assert image.shape == (16, 16, 16)
    # The file's axes are W, H, D: its third counts axial slices from foot to head.
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert np.allclose(image.header.get_zooms(), 320 / 16)
    hu = image.get_fdata()
    assert hu.min() >= -1024
    assert hu.max() <= 1476
    record = json.loads((tmp_path / "ct.json").read_text())
    assert record["seed"] == 3
    assert (record["sampler"], record["steps"], record["consistency"]) == ("dpmpp_2m", 3, "films")
    assert [x["angle_deg"] for x in record["xrays"]] == [0.0, 90.0]
    first, second = (film["alignment"] for film in record["xrays"])
    assert (first["by"], first["height_mm"], first["likeness"]) == ("model", 0, 1)
    assert first["size"] == pytest.approx(1 / (1 + second["size"]) - 1, abs=1e-3)
    assert abs(second["height_mm"]) > 0
    assert [(film["curve"]["to"][0], film["curve"]["to"][-1]) for film in record["xrays"]] == [(0, 1)] * 2


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory, xrays):
    """Every output of one call: three samples, two at a time, in the place of a truth."""
    folder = tmp_path_factory.mktemp("drawn")
    films = [folder / "ap.png", folder / "lat.png"]
    for film, view in zip(films, xrays, strict=True):
        write_picture(film, view, bits=16)
    hu = np.random.default_rng(1).uniform(-1000, 1000, (16, 16, 16))
    save_nifti(folder / "truth.nii.gz", hu, frame_affine(hu.shape, 20.0, (10, -20, 300)))
    shown = [f"--xray={film}@{angle}" for film, angle in zip(films, (0, 90), strict=True)]
    outputs = [f"--output={folder / 'ct.nii.gz'}", f"--dicom={folder / 'series'}", f"--report={folder / 'page.html'}"]
    how = ["--frame=none", "--samples=3", "--batch=2", "--seed=5", "--steps=2", f"--truth={folder / 'truth.nii.gz'}"]
    reconstruct.main([f"--workdir={trained}", *shown, *outputs, *how])
    return folder


def test_samples_are_those_of_their_seeds_however_they_are_batched(drawn, reconstructor, xrays):
    """To 1 HU, but for 1 voxel in 50: rounding differs with the batch and may carry a latent over to the next code."""
    mean, std = (nib.load(drawn / f"ct_{name}.nii.gz").get_fdata().transpose(2, 1, 0) for name in ("mean", "std"))
    alone = [np.asarray(reconstructor(xrays, (0, 90), jax.random.key(seed), steps=2)) for seed in (5, 6, 7)]
    expected = 2500 * np.stack(alone) - 1024
    first = load_scan(drawn / "ct.nii.gz").hu
    assert expected.std(axis=0).max() > 2
    for found, wanted in ((first, expected[0]), (mean, expected.mean(axis=0)), (std, expected.std(axis=0, ddof=1))):
        assert np.mean(np.abs(found - wanted) > 1) < 0.02


def test_dicom_out_is_the_nifti_in_hu_and_in_place(drawn):
    series, nifti, truth = (load_scan(drawn / name) for name in ("series", "ct.nii.gz", "truth.nii.gz"))
    np.testing.assert_array_equal(series.hu, nifti.hu)
    np.testing.assert_allclose(series.affine, nifti.affine, atol=1e-4)
    np.testing.assert_allclose(truth.affine, nifti.affine, atol=1e-4)


def test_every_output_carries_seed_model_version_and_settings(drawn, trained, reconstructor):
    record = json.loads((drawn / "ct.json").read_text())
    assert (record["seed"], record["samples"], record["steps"]) == (5, 3, 2)
    assert record["model_fingerprint"] == reconstructor.fingerprint
    assert set(record["metrics"]) == {"sample of seed 5", "mean of 3"}
    assert record["warnings"] == ["The model was trained on phantoms, not on patients."]
    comments = pydicom.dcmread(drawn / "series" / "0001.dcm").ImageComments
    page = (drawn / "page.html").read_text()
    for fact in (str(trained), record["model_fingerprint"], record["version"]):
        assert fact in comments
        assert fact in page
    assert (record["consistency"], '"consistency": "none"' in comments) == ("none", True)
    assert b"seed 5" in nib.load(drawn / "ct.nii.gz").header["descrip"].item()


def test_the_map_of_unseen_voxels_lies_on_the_volume(drawn):
    unseen, ct = (nib.load(drawn / name) for name in ("ct_unseen.nii.gz", "ct.nii.gz"))
    assert unseen.get_data_dtype() == np.uint8
    assert unseen.shape == ct.shape
    np.testing.assert_array_equal(unseen.affine, ct.affine)
    # This geometry's detector sees the whole volume.
    assert not unseen.get_fdata().any()


def test_the_page_shows_result_spread_truth_and_error(drawn):
    (case,) = page_data(drawn / "page.html")["cases"]
    layers = {layer["name"]: layer for layer in case["layers"]}
    assert list(layers) == [
        "sample of seed 5", "mean of 3", "DVG-Net, the first CT", "spread of the samples", "truth",
        "error of sample of seed 5", "error of mean of 3", "error of DVG-Net, the first CT",
    ]  # fmt: skip
    voxels = np.frombuffer(gzip.decompress(base64.b64decode(layers["sample of seed 5"]["data"])), "<i2")
    np.testing.assert_array_equal(voxels.reshape(16, 16, 16), load_scan(drawn / "ct.nii.gz").hu)


def page_data(path):
    """What the page hands to its viewer."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL).group(1))


def test_several_samples_of_a_model_that_draws_nothing(reconstructor, xrays):
    still = Reconstructor(reconstructor.config, replace(reconstructor.dvg, use_diffusion=False), {})
    with pytest.raises(UserError, match="samples is 2; allowed: 1"):
        still.samples(xrays, (0, 90), sample_keys(0, 2))


def test_the_key_decides_the_sample(reconstructor, xrays):
    first, again = (reconstructor(xrays, (0, 90), key=jax.random.key(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = reconstructor(xrays, (0, 90), key=jax.random.key(2))
    assert float(np.abs(first - other).max()) > 0


def test_the_sampler_is_chosen_by_name(trained, xrays):
    reconstructor = load_reconstructor(trained)
    reconstructor.dvg = replace(reconstructor.dvg, decode_quantized=False)  # latents of one code would be one CT
    named = {name: np.asarray(reconstructor(xrays, (0, 90), steps=3, sampler=name)) for name in (None, *SAMPLERS)}
    np.testing.assert_array_equal(named[None], named["ancestral"])
    assert np.abs(named["ddim"] - named["ancestral"]).max() > 0
    assert np.abs(named["ddim"] - named["dpmpp_2m"]).max() > 0
    with pytest.raises(UserError, match="sampler is 'euler'; allowed: ancestral, ddim, dpmpp_2m"):
        reconstructor(xrays, (0, 90), sampler="euler")


def test_blocks_are_traced_once_whatever_films_angles_and_key(reconstructor, xrays, monkeypatch):
    """E_bp and E_new are two encoders, D_ct is one decoder: nothing else may compile them again."""
    chex.clear_trace_counter()
    for name, static, most in (("encode", 0, 2), ("decode", (0, 1), 1), ("first_latent", 0, 1)):
        limited = chex.assert_max_traces(getattr(dvg, name).__wrapped__, n=most)
        monkeypatch.setattr(dvg, name, jax.jit(limited, static_argnums=static))
    for seed, angles in enumerate(((0, 90), (5, 88))):
        ct = reconstructor(xrays[:: (-1) ** seed], angles, key=jax.random.key(seed), steps=1)
        chex.assert_shape(ct, (16, 16, 16))


def test_the_consistency_is_chosen_by_name(refined, xrays):
    model, key = load_reconstructor(refined), jax.random.key(1)
    made = {mode: model(xrays, (0, 90), key, 1, consistency=mode) for mode in (None, *MODES)}
    np.testing.assert_array_equal(made[None], made["none"])
    films = minmax(jnp.asarray(xrays))[None, ..., None]
    errors = {}
    for mode, ct in made.items():
        lines = model.dvg.render(ct[None, ..., None], (0.0, 90.0), normalize=False)
        whole = whole_rays(PROJECTORS["default"], model.dvg.geometry, (0.0, 90.0), 1)
        errors[mode] = float(jnp.linalg.norm(film_residual(lines, films, whole)))
    assert max(errors["films"], errors["refine"]) < 0.7 * errors["none"]
    assert float(jnp.abs(made["films"] - made["refine"]).max()) > 0.01
    drawn = model.samples(xrays, (0, 90), sample_keys(0, 2), 1, batch=1, consistency="films")
    np.testing.assert_allclose(drawn[1], made["films"], atol=1e-5)
    with pytest.raises(UserError, match="consistency is 'both'; allowed: none, films, refine"):
        model(xrays, (0, 90), consistency="both")


def test_a_refiner_that_is_not_trained_is_asked_for(trained, tmp_path, xrays, fails):
    for name, view in zip(("ap", "lat"), xrays, strict=True):
        write_picture(tmp_path / f"{name}.png", view)
    films = [f"--xray={tmp_path / 'ap.png'}@0", f"--xray={tmp_path / 'lat.png'}@90"]
    asked = [f"--workdir={trained}", *films, f"--output={tmp_path / 'ct.nii.gz'}", "--consistency=refine"]
    said = fails(reconstruct.main, *asked)
    hint = "--config.consistency.mode=refine --config.stage=refine"
    assert said.endswith(f"stage refine is not trained; allowed: none, films, or train it first ({hint})")
    assert not (tmp_path / "ct.nii.gz").exists()


def test_contrast_and_brightness_of_a_film_do_not_matter(reconstructor, xrays):
    first = reconstructor(xrays, (0, 90))
    scaled = reconstructor(0.3 * xrays + 0.2, (0, 90))
    np.testing.assert_allclose(first, scaled, atol=1e-2)


def test_single_precision_cube(reconstructor, xrays):
    ct = reconstructor(xrays, (5, 88), steps=1)
    assert ct.shape == (16, 16, 16)
    assert float(ct.min()) >= 0
    assert float(ct.max()) <= 1
