"""Quantiles of the error: the guarantee over cases, groups with few cases, and a folder's calibration."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.calibration import LEAST, SHARES, Calibration, Errors, covered, ray_support, usable
from dvg_jax.config import CALIBRATION, PAPER_STAGES, save
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.dvg import DVG
from dvg_jax.training.calibrate import calibrate, kept_aside, load_calibration
from dvg_jax.training.run import train
from dvg_jax.training.stop import StopRequest
from tests.tiny import get_config

SIDE = 4
SUPPORT = np.full((SIDE,) * 3, 2)
BLANK = np.zeros((SIDE,) * 3)


def a_case(rng, scale=40.0):
    """Draw errors whose size differs from case to case, as it does between patients."""
    return BLANK, rng.normal(0, scale * np.exp(rng.normal(0, 0.7)), BLANK.shape)


def calibrated(cases, **spread):
    errors = Errors(SUPPORT, bool(spread))
    for ct, truth in cases:
        errors.add(ct, truth, spread.get("spread_hu"))
    return Calibration(errors.quantiles(), {})


def test_a_quantile_is_the_least_with_which_few_enough_are_missed_over_cases():
    rng = np.random.default_rng(0)
    # Soft tissue among bone, of which a case has much or little: each counts once.
    cases = [(800.0 * (rng.random(BLANK.shape) < rng.random()), a_case(rng)[1]) for _ in range(40)]
    cases = [(ct, ct + error) for ct, error in cases if (ct == 0).any()]
    n, found = len(cases), calibrated(cases).bounds(BLANK, SUPPORT)[0, 0, 0]
    for share, q in zip(SHARES, found, strict=True):
        missed = [sum(np.mean(np.abs(truth - ct)[ct == 0] > limit) for ct, truth in cases) for limit in (q, q - 1)]
        bound = [(part + 1) / (n + 1) for part in missed]
        assert bound[0] <= 1 - share / 100 < bound[1]


def test_a_new_case_is_covered_in_expectation():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        *cases, (ct, truth) = (a_case(rng) for _ in range(LEAST + 1))
        inside.append(covered(calibrated(cases).bounds(ct, SUPPORT), ct, truth, BLANK == 0)["covered_90"])
    assert 90 < np.mean(inside) < 97


def test_groups_with_few_cases_take_the_coarser_groups_bounds_and_no_spread_lowers_them():
    rng = np.random.default_rng(2)
    spread = np.full(BLANK.shape, 2.0)
    cases = [a_case(rng) for _ in range(LEAST)]
    many, few = calibrated(cases, spread_hu=spread), calibrated(cases[:-1], spread_hu=spread)
    assert np.isinf(few.quantiles[0]).sum() == 0
    assert few.quantiles[0][0, -1] == 2500  # 18 cases say nothing at 95 %: the whole range
    own = many.bounds(BLANK, SUPPORT, spread)[0, 0, 0]
    for value, expected in ((0.0, own), (2.0, own), (500.0, own)):
        np.testing.assert_array_equal(many.bounds(BLANK, SUPPORT, BLANK + value)[0, 0, 0], expected)
    # Bone was never seen: it has the bounds of all voxels.
    np.testing.assert_array_equal(many.bounds(BLANK + 800, SUPPORT)[0, 0, 0], many.quantiles[0][0])


def test_more_error_where_the_samples_differ_is_found():
    rng = np.random.default_rng(3)
    spread = np.where(np.arange(SIDE)[:, None, None] < SIDE // 2, 2.0, 20.0) + BLANK
    cases = [(BLANK, rng.normal(0, 3 * spread)) for _ in range(30)]
    found = calibrated(cases, spread_hu=spread).error_map(BLANK, SUPPORT, spread)
    assert 8 < found[0, 0, 0] < 13 < 80 < found[-1, 0, 0] < 130


def test_rays_are_counted():
    dvg = build_dvg(get_config())
    assert set(np.unique(ray_support((0.0, 90.0), dvg.geometry))) == {2}


@pytest.fixture(scope="module")
def config(trained):
    made = get_config()
    made.calibration.update({"cases": LEAST, "samples": 2})
    made.sampler.steps = 1
    for name in PAPER_STAGES:
        made.init[name] = str(trained / name)
    return made


def test_training_calibrates_a_finished_folder_once(config, tmp_path, monkeypatch):
    def drawn(self, variables, views, angles, keys):
        return jax.vmap(lambda key: jax.random.uniform(key, (16, 16, 16, 1)))(keys)

    monkeypatch.setattr(DVG, "reconstruct", drawn)
    save(config, tmp_path / "config.json")
    before = load_reconstructor(tmp_path)
    assert "calibration.json is missing" in before.calibration((0.0, 90.0))
    train(config, tmp_path)
    model = load_reconstructor(tmp_path)
    found = model.calibration((0.0, 90.0))
    assert isinstance(found, Calibration)
    assert (found.facts["cases"], found.facts["kind"], found.facts["samples"]) == (LEAST, "phantoms", 2)
    assert set(found.facts["stages"]) == set(required_stages(config))
    assert found.quantiles[3].min() >= 0
    assert found.quantiles[3].max() <= 2500
    written = (tmp_path / CALIBRATION).read_bytes()
    monkeypatch.setattr(DVG, "reconstruct", None)
    train(config, tmp_path)
    assert (tmp_path / CALIBRATION).read_bytes() == written
    # It belongs to one way of making results, and to its stages.
    for asked in ({"steps": 2}, {"consistency": "films"}, {"sampler": "ddim"}):
        said = model.calibration((0.0, 90.0), **asked)
        assert said.startswith(f"the model is calibrated with {next(iter(asked))} ")
    assert usable(found, model.dvg, (5.0, 88.0)) is found
    assert "angles" in usable(found, replace(model.dvg, random_views=2), (5.0, 88.0))
    text = written.decode().replace(found.facts["stages"]["diffusion"], "another")
    (tmp_path / CALIBRATION).write_text(text)
    assert "is of other stages" in load_calibration(config, tmp_path)
    (tmp_path / CALIBRATION).write_text(text[:100])
    assert "cannot be read" in load_calibration(config, tmp_path)


def test_its_films_are_as_imperfect_as_those_of_the_training(config, tmp_path, monkeypatch):
    seen = []

    def drawn(self, variables, views, angles, keys):
        seen.append(np.asarray(views))
        return jax.vmap(lambda key: jax.random.uniform(key, (16, 16, 16, 1)))(keys)

    monkeypatch.setattr(DVG, "reconstruct", drawn)
    save(config, tmp_path / "config.json")
    with StopRequest() as stop:
        calibrate(config, ideal := build_dvg(config), tmp_path, stop)
        noisy = config.copy_and_resolve_references()
        noisy.films.noise = 0.2
        calibrate(noisy, build_dvg(noisy), tmp_path, stop)  # a calibration on other films is not taken for its own
    assert len(seen) == 2 * LEAST
    cases = kept_aside(config)
    rendered = [np.asarray(ideal.render(cases.source[i]["ct"][None], ideal.angles)) for i in cases.places]
    np.testing.assert_allclose(seen[:LEAST], rendered, atol=1e-6)
    off = [np.abs(a - b).mean() for a, b in zip(seen[LEAST:], rendered, strict=True)]
    assert 0.05 < min(off) < max(off) < 0.3


def test_a_folder_that_is_not_finished_or_asks_for_none_is_left_alone(config, tmp_path):
    with StopRequest() as stop:
        calibrate(get_config(), build_dvg(config), tmp_path, stop)
        unfinished = config.copy_and_resolve_references()
        unfinished.init.diffusion = ""
        calibrate(unfinished, build_dvg(config), tmp_path, stop)
    assert not list(tmp_path.iterdir())


def a_folder(root, patients):
    """Write prepared scans of split ``val``, two of the first patient."""
    rows = []
    for n, patient in enumerate(["p0", *(f"p{i}" for i in range(patients))]):
        save_nifti(root / f"{n}.nii.gz", np.full((16, 16, 16), -1000.0), frame_affine((16, 16, 16), 20.0))
        rows.append(Row(patient, "", f"{n}.nii.gz", f"{n}", "", "", "val", "", "ok", "", "", ""))
    write_manifest(root, rows)
    return root


def test_cases_are_patients_kept_aside_and_phantoms_where_those_are_too_few(config, tmp_path, capsys):
    config = config.copy_and_resolve_references()
    enough, few = a_folder(tmp_path / "enough", LEAST), a_folder(tmp_path / "few", LEAST - 1)
    for source, kind, cases in (
        (f"phantom:0.5,{enough}:0.5", "scans", LEAST),
        (f"phantom:0.5,{few}:0.5", "phantoms", LEAST),
        (str(few), "scans", LEAST - 1),
    ):
        config.data.source = source
        found = kept_aside(config)
        assert (found.kind, len(found.places)) == (kind, cases)
    assert found.places[:2] == [0, 2]
    with StopRequest() as stop:
        calibrate(config, build_dvg(config), tmp_path, stop)
    assert f"no error map: {LEAST - 1} patients in split 'val' of {few}" in capsys.readouterr().err
    assert not (tmp_path / CALIBRATION).exists()
