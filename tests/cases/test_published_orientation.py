"""The released networks have the head at index 0 of D and at row 0 of films; everything here has the foot there.

The released pipeline itself gives the expected output of an imported folder: the same networks on films as they lie in
their files, head up, and with D flipped when the result is exported. Random weights are enough: they are no more alike
upside down than a chest is, which :func:`differs` makes sure of.
"""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.baselines import build_baseline, cddpm
from dvg_jax.config import PAPER_STAGES
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.films.read import write_picture
from dvg_jax.dvg import Estimates
from dvg_jax.errors import UserError
from dvg_jax.methods import build_method, own_methods
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.report.cases import build_films
from dvg_jax.stages import build_stage
from dvg_jax.stages.refine import init_rounds
from dvg_jax.torch_import import command
from dvg_jax.training.checkpoint import save_model
from dvg_jax.training.workdir import load_config, load_stages
from tests import released, tiny

SIZE, STEPS = released.SIZE, 2
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    file = released.write_trainer(folder / "DVG_Diffusion.pt")
    command.main([f"--checkpoint={file}", f"--workdir={folder / 'run'}", "--num_groups=4"])
    return folder / "run"


@pytest.fixture(scope="module")
def model(imported):
    return load_reconstructor(imported)


@pytest.fixture(scope="module")
def dvg(model):
    """Return the method as imported, and the released pipeline: the same without turning D."""
    assert model.dvg.head_first
    few = replace(model.dvg, sampler=model.sampler(STEPS))
    return few, replace(few, head_first=False)


@pytest.fixture(scope="module")
def chests():
    """Draw a CT whose head, foot, front, back, left and right all differ."""
    ct = np.random.default_rng(0).random((1, SIZE, SIZE, SIZE, 1)).astype(np.float32)
    ct *= np.linspace(0.2, 1, SIZE)[:, None, None, None]
    return jnp.asarray(ct, jnp.float32)


def turned(x):
    """Reverse D of volumes (B, D, H, W, 1) or rows of views (B, V, h, w, 1)."""
    return x[:, ::-1] if x.shape[1] == SIZE else x[:, :, ::-1]


def differs(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).mean()) > 1e-3 * float(np.abs(np.asarray(a)).mean())


def test_a_film_with_the_head_up_gives_a_ct_with_the_head_up(imported, dvg, model, tmp_path):
    films, flags = np.random.default_rng(1).random((2, SIZE, SIZE)).astype(np.float32), []
    films *= np.linspace(1, 0.2, SIZE, dtype=np.float32)[:, None]  # as they lie in a file: row 0 is the head
    for film, angle in zip(films, (0, 90), strict=True):
        write_picture(tmp_path / f"{angle}.png", film[::-1], bits=16)  # arrays here have the foot at row 0
        flags.append(f"--xray={tmp_path / f'{angle}.png'}@{angle}")
    reconstruct.main(
        [f"--workdir={imported}", *flags, f"--output={tmp_path / 'ct.nii'}", f"--steps={STEPS}", "--frame=none"]
    )
    written = nib.load(tmp_path / "ct.nii")
    assert nib.aff2axcodes(written.affine)[2] == "S"
    stored = np.round(films * 65535) / 65535
    low, high = stored.min(axis=(1, 2), keepdims=True), stored.max(axis=(1, 2), keepdims=True)
    plain = jnp.asarray((stored - low) / (high - low), jnp.float32)[None, ..., None]
    head_to_foot = dvg[1].reconstruct(model.variables, plain, (0.0, 90.0), KEY)[0, ..., 0]
    exported = np.asarray(intensity_to_hu(head_to_foot))[::-1].transpose(2, 1, 0)
    np.testing.assert_allclose(written.get_fdata(), exported, atol=2)
    upside_down = dvg[1].reconstruct(model.variables, plain[:, :, ::-1], (0.0, 90.0), KEY)[0, ..., 0]
    assert np.abs(intensity_to_hu(np.asarray(upside_down)).transpose(2, 1, 0) - exported).mean() > 5


def test_evaluation_and_pages_see_truth_prediction_and_new_view_the_same_way_up(dvg, model, chests):
    ours, theirs = dvg
    found, expected = (
        [
            made.predict(model.variables, ct if made.sees_truth else method.render(ct, method.angles), KEY)
            for made in (build_method(name, model.config, method) for name in own_methods(model.config))
        ]
        for method, ct in ((ours, chests), (theirs, turned(chests)))
    )
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.ct, turned(b.ct))
    (made,), (expected_made,) = ([x.views for x in some if x.views is not None] for some in (found, expected))
    np.testing.assert_array_equal(made, turned(expected_made))
    assert differs(made, expected_made)
    # These are the true views on the page, and those of the reprojection table.
    for normalize in (True, False):
        view = ours.render(chests, (45.0, 135.0), normalize)
        np.testing.assert_array_equal(view, turned(theirs.render(turned(chests), (45.0, 135.0), normalize)))
    # It is denser towards the head, so both the view and its film on the page are brighter in their last rows.
    films = build_films(ours, ours.angles, ["0", "90"], ours.render(chests, ours.angles), np.asarray(chests[0, ..., 0]))
    for film in films:
        for image in (film.input_view, film.reprojection):
            assert image[SIZE // 2 :].mean() > 1.2 * image[: SIZE // 2].mean()


def test_the_reconstructors_new_view_and_samples(dvg, model, chests):
    ours, theirs = dvg
    films = ours.render(chests, ours.angles)
    new = model.new_view(films[0, ..., 0], ours.angles)
    z_in = theirs.view_latent(model.variables, turned(films), ours.angles)
    expected = theirs.synthesize_view(model.variables, z_in)
    np.testing.assert_allclose(new.ct, turned(expected.ct), atol=1e-5)
    np.testing.assert_allclose(new.views, turned(expected.views), rtol=1e-4, atol=1e-4)
    assert differs(new.ct, expected.ct)


@pytest.mark.parametrize("name", PAPER_STAGES)
def test_training_goes_on_with_the_head_first_and_shows_the_foot_first(dvg, model, chests, name):
    ours, theirs = (build_stage(name, model.config, method) for method in dvg)
    example, expected = ours.prepare(model.variables, chests, KEY), theirs.prepare(model.variables, turned(chests), KEY)
    assert example.keys() == expected.keys()
    for part, x in example.items():
        np.testing.assert_array_equal(x, expected[part])
    if name == "new_view":
        return  # its pictures follow the code of ``diffusion``
    (_, shown), (_, head_first) = (
        stage.show(model.variables, ct, KEY) for stage, ct in ((ours, chests), (theirs, turned(chests)))
    )
    for part, x in shown.items():
        np.testing.assert_allclose(x, head_first[part][::-1], atol=1e-5)
    assert differs(shown["truth"], head_first["truth"])


@pytest.mark.parametrize("mode", ["films", "refine"])
def test_results_are_made_to_agree_the_same_way_up(dvg, model, chests, mode):
    ours, theirs = (replace(method, consistency=mode) for method in dvg)
    films = ours.render(chests, ours.angles)
    params = init_rounds(ours, KEY, chests, ours.angles)
    variables = model.variables | {"refine": {"params": params}}
    start = Estimates(0.8 * chests, 0.7 * chests)
    found = ours.agree(variables, start, films, ours.angles)
    expected = theirs.agree(variables, Estimates(*map(turned, start)), turned(films), theirs.angles)
    np.testing.assert_allclose(found, turned(expected), atol=1e-5)
    assert differs(found, start.ct)


def test_a_diffusion_model_in_pixels_has_condition_and_ct_the_same_way_up(dvg, model, chests, monkeypatch):
    config = tiny.get_config()
    config.baselines.cddpm.update({"space": "pixel", "new_view": True})
    ours, theirs = (build_baseline("cddpm", config, method) for method in dvg)
    example = ours.prepare(model.variables, chests, KEY)
    for part, x in theirs.prepare(model.variables, turned(chests), KEY).items():
        np.testing.assert_array_equal(example[part], x)
    monkeypatch.setattr(cddpm, "sample", lambda denoiser, arguments, *_: arguments[1][0][..., :1])
    variables = model.variables | {"cddpm": {"params": {}, "largest": jnp.ones(2)}}
    films = dvg[0].render(chests, dvg[0].angles)
    found, head_first = ours.predict(variables, films, KEY), theirs.predict(variables, turned(films), KEY)
    np.testing.assert_array_equal(found, turned(head_first))


@pytest.fixture
def older(imported, tmp_path):
    """Rewrite the folder as it was before ``head_first``; ``trained`` names stages that were trained here."""

    def write(*trained: str):
        folder = tmp_path / "older"
        shutil.copytree(imported, folder)
        config = json.loads((folder / "config.json").read_text())
        del config["head_first"]
        (folder / "config.json").write_text(json.dumps(config))
        for stage in PAPER_STAGES:
            file = folder / stage / "model" / "facts" / "metadata"
            facts = json.loads(file.read_text())
            del facts["config"]["head_first"], facts["variables"]
            (folder / stage / "model" / "digests.json").unlink()
            if stage in trained:
                del facts["source"]
            file.write_text(json.dumps(facts))
        return folder

    return write


def test_a_folder_imported_before_the_field_existed_is_turned_too(older, imported, model):
    folder = older()
    again = load_reconstructor(folder)
    assert again.config.to_dict() == model.config.to_dict()
    assert again.dvg == model.dvg
    # Training of a stage has begun in it.
    (folder / "diffusion" / "model").rename(folder / "diffusion" / "checkpoints")
    assert not load_config(folder).head_first


def test_an_older_folder_that_was_trained_here_stays_foot_first(older):
    assert not load_reconstructor(older(*PAPER_STAGES)).dvg.head_first


def test_an_older_folder_of_both_kinds_is_refused(older):
    folder = older("diffusion")
    with pytest.raises(UserError, match=r"head_first is False, and the networks of \S+ct_vqgan\S* have the head first"):
        load_reconstructor(folder)


def test_an_imported_stage_is_refused_where_the_foot_is_first(imported, tmp_path):
    config = load_config(imported)
    config.init.ct_vqgan = str(imported / "ct_vqgan")
    load_stages(config, tmp_path, ("ct_vqgan",), wanted_by="diffusion")
    config.head_first = False
    with pytest.raises(UserError, match="allowed: True"):
        load_stages(config, tmp_path, ("ct_vqgan",), wanted_by="diffusion")


def test_comparison_methods_beside_an_imported_folder_are_refused_where_their_order_matters(imported, tmp_path):
    """Most see films and CTs with the foot first whatever the pipeline's networks see; CDDPM sees the same as those."""
    config = load_config(imported)
    for name in ("reconnet", "cddpm"):
        save_model(tmp_path / name / "model", {"params": {"kernel": np.zeros(1)}}, {"stage": name, "config": {}})
    load_stages(config, tmp_path, ("reconnet",), wanted_by="evaluation")
    with pytest.raises(UserError, match=r"cddpm\S* have the foot first; allowed: False"):
        load_stages(config, tmp_path, ("cddpm",), wanted_by="evaluation")
