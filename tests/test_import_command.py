"""``python -m dvg_jax.torch_import``: a folder like any trained one, or one line that says why and nothing written."""

import csv
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.config import PAPER_STAGES, default_config, save
from dvg_jax.data.films.read import write_picture
from dvg_jax.errors import UserError
from dvg_jax.evaluate import command as evaluate
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.stages import build_stage
from dvg_jax.torch_import import command, load_checkpoint, subtree, unet3d, workdir
from dvg_jax.torch_import.release import open_trainer
from dvg_jax.training.workdir import load_config
from dvg_jax.xray.views import PROJECTORS
from tests import released, tiny
from tests.paths import GOLDEN, needs_shared


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The four released files, made."""
    folder = tmp_path_factory.mktemp("files")
    released.write_trainer(folder / "DVG_Diffusion.pt")
    released.write_lightning(folder / "CT_VQGAN.ckpt", released.vqgan_state(1.0))
    released.write_lightning(folder / "VPGE_45_VQGAN.ckpt", released.vqgan_state())
    return folder


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "official"
    command.main([f"--checkpoint={files / 'DVG_Diffusion.pt'}", f"--workdir={folder}", "--num_groups=4"])
    return folder


SMALL_CONFIG = """
from pathlib import Path

from dvg_jax.training.workdir import load_config


def get_config():
    config = load_config(Path({path!r}))
    config.data.update({{"train_count": 2, "test_count": 2}})
    config.evaluate.update({{"cases": 2, "batch_size": 2, "lpips": "", "pictures": 1}})
    config.sampler.steps = 2
    return config
"""


def load(folder, *argv):
    command.main([f"--workdir={folder}", *map(str, argv)])
    return load_reconstructor(folder)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_folder_has_the_released_conventions(imported):
    config = load_reconstructor(imported).config
    assert (config.size, config.timesteps) == (released.SIZE, released.TIMESTEPS)
    assert (config.projector, config.normalize_new_view, config.floor) == ("published", False, 0.04)
    assert config.head_first
    assert (config.sampler.steps, config.sampler.eta, config.sampler.clip) == (0, 1.0, 1.0)
    assert (config.angles, config.new_angles, config.geometry) == ((0.0, 90.0), (45.0,), "paper")
    assert config.diffusion.network.to_dict() == {
        "dim": 8, "dim_mults": (1, 2), "heads": 2, "head_dim": 32, "groups": 8, "remat": False,
    }  # fmt: skip
    assert config.ct_vqgan.network.n_codes == 32


def test_nothing_of_them_is_in_the_default():
    config = default_config()
    assert (config.projector, config.normalize_new_view, config.floor) == ("default", True, 0.0)
    assert not config.head_first
    assert config.sampler.clip == 0.0


def test_latents_are_scaled_as_released(imported):
    """Target by the ends of the CT codebook, conditions as they are, and G_z's own numbers after de-standardising."""
    dvg, variables = (model := load_reconstructor(imported)).dvg, model.variables
    ends = released.trainer_state()["vqgan.codebook.embeddings"]
    ct = variables["ct_vqgan"]["statistics"]
    np.testing.assert_allclose(ct["mean"] - ct["std"], np.full(8, ends.min()), rtol=1e-6)
    np.testing.assert_allclose(ct["mean"] + ct["std"], np.full(8, ends.max()), rtol=1e-6)
    for name in ("view_vqgan", "new_view_vqgan"):
        assert not np.any(variables[name]["statistics"]["mean"])
        assert np.all(np.asarray(variables[name]["statistics"]["std"]) == 1)
    z_in = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 8))
    generator, plain = unet3d(subtree(released.trainer_state(1.01), "fit_model"))
    expected = jax.jit(generator.apply)(plain, z_in, jnp.zeros(1, jnp.int32))
    z = dvg.first_latent(variables["new_view"]["params"], z_in)
    np.testing.assert_allclose(z * ct["std"] + ct["mean"], expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_reconstructs_and_evaluates_as_any_other(imported, tmp_path, capsys):
    rng = np.random.default_rng(0)
    films = []
    for name, angle in (("ap", 0), ("lat", 90)):
        write_picture(tmp_path / f"{name}.png", rng.random((16, 16)).astype(np.float32))
        films.append(f"--xray={tmp_path / name}.png@{angle}")
    reconstruct.main([f"--workdir={imported}", *films, f"--output={tmp_path / 'ct.nii'}", "--steps=3"])
    assert nib.load(tmp_path / "ct.nii").shape == (16, 16, 16)
    # A config for these small networks, as configs/published.py is one for the released.
    config = tmp_path / "small.py"
    config.write_text(SMALL_CONFIG.format(path=str(imported)))
    evaluate.main([f"--config={config}", f"--workdir={imported}"])
    assert "DVG-Diffusion" in capsys.readouterr().out
    with (imported / "evaluation" / "views.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"DVG-Net, view at 45 degrees"}
    # The made view is compared as a film, so no error is larger than 1; as line integrals they would be.
    assert all(float(row["psnr"]) >= 0 for row in rows)


def test_result_is_clipped_and_has_no_faint_voxels(imported):
    model = load_reconstructor(imported)
    xrays = np.random.default_rng(1).random((2, 16, 16))
    ct = np.asarray(model(xrays, (0, 90), steps=2))
    assert ct.shape == (16, 16, 16)
    assert ct.max() <= 1
    assert np.all((ct == 0) | (ct >= np.float32(0.04)))
    assert np.array_equal(ct, model(xrays, (0, 90), key=jax.random.key(0), steps=2))


def test_either_set_of_weights(files, imported, tmp_path):
    averaged = load_reconstructor(imported).variables
    trained = load(tmp_path, "--checkpoint", files / "DVG_Diffusion.pt", "--which=model", "--num_groups=4").variables
    for name in averaged:
        assert not same(averaged[name]["params"], trained[name]["params"])
    for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan"):
        assert same(averaged[name]["codebook"], trained[name]["codebook"])


def test_parallel_prefix_changes_nothing(imported, tmp_path):
    state = {
        key.replace("fit_model.", "fit_model.module.").replace("vqgan.", "vqgan.module."): array
        for key, array in released.trainer_state(1.01).items()
    }
    path = released.write_trainer(tmp_path / "a.pt", ema={f"module.{key}": array for key, array in state.items()})
    model = load(tmp_path / "run", "--checkpoint", path, "--num_groups=4", "--heads=2", "--size=16")
    assert same(model.variables, load_reconstructor(imported).variables)


def test_separate_vqgans_take_the_place_of_those_in_the_checkpoint(files, imported, tmp_path, capsys):
    whole = "--checkpoint", files / "DVG_Diffusion.pt", "--num_groups=4"
    named = f"view_vqgan={files / 'VPGE_45_VQGAN.ckpt'}"
    model = load(tmp_path, *whole, "--vqgan", files / "CT_VQGAN.ckpt", files / "VPGE_45_VQGAN.ckpt", "--vqgan", named)
    told = capsys.readouterr().out
    assert f"{tmp_path / 'ct_vqgan'}: state_dict of CT_VQGAN.ckpt, step 45" in told
    assert f"{tmp_path / 'diffusion'}: ema of DVG_Diffusion.pt, step 123" in told
    given, own = model.variables, load_reconstructor(imported).variables
    moved = given["ct_vqgan"]["codebook"]["embeddings"] - own["ct_vqgan"]["codebook"]["embeddings"]
    np.testing.assert_allclose(moved, np.full((32, 8), 0.5), atol=1e-6)
    assert same(given["view_vqgan"], given["new_view_vqgan"])
    assert same(given["diffusion"], own["diffusion"])


def test_vqgans_alone_are_frozen_stages_for_a_training(files, tmp_path):
    path = files / "CT_VQGAN.ckpt"
    command.main([f"--workdir={tmp_path}", f"--vqgan={path}", "--size=32"])
    config = load_config(tmp_path)
    assert (config.size, config.ct_vqgan.network.num_groups, config.diffusion.network.dim) == (32, 4, 128)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["ct_vqgan"]
    with pytest.raises(UserError, match="needs stage view_vqgan"):
        load_reconstructor(tmp_path)


def test_stages_make_their_examples_by_the_released_conventions(imported):
    """What further training on imported stages would learn from."""
    model = load_reconstructor(imported)
    dvg, config = model.dvg, model.config
    ct = jax.random.uniform(jax.random.key(0), (2, 16, 16, 16, 1))
    example = build_stage("diffusion", config, dvg).prepare(model.variables, ct, jax.random.key(0))
    assert {name: x.shape for name, x in example.items()} == dict.fromkeys(
        ("z0", "condition_0", "condition_1"), (2, 4, 4, 4, 8)
    )
    # An E_new is trained on what the method shows it: line integrals, which are no films.
    lifted = build_stage("new_view_vqgan", config, dvg).prepare({}, ct, jax.random.key(0))["x"]
    integrals, films = (dvg.render(ct, dvg.new_angles, normalize) for normalize in (False, True))
    np.testing.assert_array_equal(lifted[:, ::-1], dvg.lift(integrals, dvg.new_angles))
    assert not np.allclose(lifted[:, ::-1], dvg.lift(films, dvg.new_angles))
    default = replace(dvg, projector=PROJECTORS["default"])
    assert not np.allclose(lifted[:, ::-1], default.lift(integrals, dvg.new_angles), rtol=0.1)


@needs_shared
@pytest.mark.parametrize("which", ["ema", "model"])
def test_golden_files(tmp_path, which):
    content = load_checkpoint(GOLDEN / "DVG_Diffusion.pt")[which]
    model = load(tmp_path, "--checkpoint", GOLDEN / "DVG_Diffusion.pt", "--num_groups=4", "--which", which)
    assert (model.config.size, model.config.timesteps, model.config.diffusion.network.dim_mults) == (16, 100, (1, 3))
    kernels = {
        "fine_model.init_conv.weight": model.variables["diffusion"]["params"]["unet"]["init_conv"]["kernel"],
        "fit_model.init_conv.weight": model.variables["new_view"]["params"]["init_conv"]["kernel"],
        "vqgan.pre_vq_conv.conv.weight": model.variables["ct_vqgan"]["params"]["pre_vq_conv"]["kernel"],
        "vqgan_bp.pre_vq_conv.conv.weight": model.variables["view_vqgan"]["params"]["pre_vq_conv"]["kernel"],
        "vqgan_bp025.pre_vq_conv.conv.weight": model.variables["new_view_vqgan"]["params"]["pre_vq_conv"]["kernel"],
    }
    for key, kernel in kernels.items():
        np.testing.assert_array_equal(np.transpose(kernel, (4, 3, 0, 1, 2)), content[key])
    if which == "model":
        names = ("CT_VQGAN", "VPGE_0_90_VQGAN", "VPGE_45_VQGAN")
        again = load(tmp_path, "--checkpoint", GOLDEN / "DVG_Diffusion.pt", "--which=model", "--num_groups=4",
                     "--vqgan", *(GOLDEN / f"{name}.ckpt" for name in names))  # fmt: skip
        assert same(again.variables, model.variables)
        ct = model(np.random.default_rng(0).random((2, 16, 16)), (0, 90), steps=2)
        assert float(ct.min()) >= 0
        assert 0 < float(ct.max()) <= 1


def test_weights_stay_in_their_file_until_they_are_written(files):
    """Opening and checking a file of gigabytes takes next to no memory of one's own."""
    parts = open_trainer(files / "DVG_Diffusion.pt", "ema", num_groups=4).parts
    assert set(parts) == set(PAPER_STAGES)
    arrays = [array for part in parts.values() for array in jax.tree.leaves(part.read()[1])]
    assert len(arrays) > 300
    assert all(isinstance(array, np.ndarray) and not array.flags.owndata for array in arrays)


def test_malicious_pickle(fails, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for name in ("evil.pt", "CT_VQGAN.ckpt"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps({"ema": Evil(), "state_dict": Evil()}, protocol=4))
    for flags in (["--checkpoint", tmp_path / "evil.pt"], ["--vqgan", tmp_path / "CT_VQGAN.ckpt"]):
        said = fails(command.main, *flags, "--workdir", tmp_path / "run")
        assert f"refused: {flags[1]} asks to call {os.system.__module__}.system" in said
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()


def without(state, key):
    return {k: a for k, a in state.items() if k != key}


FLAWS = {
    "missing": (lambda s: without(s, "fine_model.mid_block1.mlp.1.bias"),
                "a.pt, diffusion: state dict is not that of a 3D U-Net; missing: mid_block1.mlp.1.bias"),
    "reshaped": (lambda s: s | {"vqgan_bp.pre_vq_conv.conv.bias": np.zeros(7, np.float32)},
                 "a.pt, view_vqgan: state dict is not that of a VQGAN; of another shape: pre_vq_conv.conv.bias (7,)"),
    "unknown in a part": (lambda s: s | {"fit_model.extra.weight": np.zeros(7, np.float32)}, "unknown: extra.weight"),
    "unknown part": (lambda s: s | {"other.weight": np.zeros(7, np.float32)}, "unknown: other.weight"),
    "no part": (lambda s: {k: a for k, a in s.items() if not k.startswith("fit_model.")}, "nothing under 'fit_model'"),
    "schedule": (lambda s: s | {"betas": np.linspace(0.01, 0.9, 20, dtype=np.float32)}, "betas differ from the cosine"),
    "box": (lambda s: s | {"fp.volume_offset": np.float32([8, 8, 9])}, "volumes of [16.0, 18.0] voxels"),
    "one view": (lambda s: s | {"fine_model.init_conv.weight": s["fine_model.init_conv.weight"][:, :16]},
                 "diffusion takes 16 channels and gives 8; allowed: 24, those of z_in, z_new and z_t, and 8"),
    "flat codebook": (lambda s: s | {"vqgan.codebook.embeddings": np.ones((32, 8), np.float32)},
                      "CT codebook reaches from 1.0 to 1.0"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "told"), FLAWS.values(), ids=FLAWS)
def test_flawed_file(fails, tmp_path, change, told):
    path = released.write_trainer(tmp_path / "a.pt", ema=change(released.trainer_state()), model={})
    said = fails(command.main, "--checkpoint", path, "--workdir", tmp_path / "run", "--num_groups=4")
    assert told in said
    assert not (tmp_path / "run").exists()


FLAGS = {
    "--which=best": "--which is 'best'; allowed: ema, model",
    "--heads=8": "heads is 8; allowed: 2",
    "--num_groups=3": "num_groups is 3; allowed: divisors of this VQGAN's 8 channels",
    "--num_groups=0": "--num_groups is '0'; allowed: a whole number from 1 to 8192",
    "--size=32": "size is 32; allowed: 16, as the checkpoint's projector has it",
    "--vqgan=A.ckpt": "--vqgan is A.ckpt; allowed: CT_VQGAN.ckpt, VPGE_0_90_VQGAN.ckpt, VPGE_45_VQGAN.ckpt, or STAGE",
    "--vqgan=ct_vqgan=A.ckpt": "checkpoint A.ckpt: no such file",
    "--steps=3": "unknown flag --steps; ",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_bad_flag(fails, files, tmp_path, flag):
    whole = ["--checkpoint", files / "DVG_Diffusion.pt", "--workdir", tmp_path / "run"]
    said = fails(command.main, *whole, *([] if "groups" in flag else ["--num_groups=4"]), flag)
    assert FLAGS[flag] in said
    assert not (tmp_path / "run").exists()


def test_missing_and_contradictory_requests(fails, files, tmp_path):
    assert "--checkpoint is missing" in fails(command.main, "--workdir", tmp_path / "run")
    assert "--workdir is missing" in fails(command.main, "--checkpoint", files / "DVG_Diffusion.pt")
    twice = [files / "CT_VQGAN.ckpt", f"ct_vqgan={files / 'VPGE_45_VQGAN.ckpt'}"]
    assert "one file a stage" in fails(command.main, "--vqgan", *twice, "--workdir", tmp_path / "run")
    text = tmp_path / "notes"
    text.write_text("no folder")
    assert "a file; allowed: a folder" in fails(command.main, "--vqgan", twice[0], "--workdir", text)
    assert "holds global_step, state_dict, hyper_parameters; allowed: a dict with 'ema'" in fails(
        command.main, "--checkpoint", twice[0], "--workdir", tmp_path / "run"
    )
    assert "a dict with 'state_dict', as in CT_VQGAN.ckpt" in fails(
        command.main, "--vqgan", f"ct_vqgan={files / 'DVG_Diffusion.pt'}", "--workdir", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_folder_of_another_run_is_left_alone(fails, files, tmp_path):
    whole = "--checkpoint", files / "DVG_Diffusion.pt", "--num_groups=4", "--workdir", tmp_path
    save(tiny.get_config(), tmp_path / "config.json")
    (tmp_path / "ct_vqgan" / "checkpoints" / "4").mkdir(parents=True)
    before = contents(tmp_path)
    assert f"{tmp_path} was trained with" in fails(command.main, *whole)
    assert contents(tmp_path) == before
    (tmp_path / "config.json").unlink()
    (tmp_path / "ct_vqgan").rename(tmp_path / "new_view")
    assert "holds a training run (new_view/checkpoints)" in fails(command.main, *whole)
    assert contents(tmp_path) == {}


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(fails, tmp_path):
    state = released.trainer_state()
    state["fine_model.init_conv.weight"][0, 1] = np.nan
    file = released.write_trainer(tmp_path / "bad.pt", ema=state)
    told = fails(command.main, "--checkpoint", file, "--num_groups=4", "--workdir", tmp_path / "run")
    wrong = "the network has values that are not finite in params/init_conv/kernel"
    assert told == f"error: bad.pt, diffusion: {wrong}; allowed: numbers"
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_interrupted_import_is_no_model_and_can_be_repeated(files, imported, tmp_path, monkeypatch):
    whole = "--checkpoint", files / "DVG_Diffusion.pt", "--num_groups=4"
    load(tmp_path, *whole, "--which=model")

    def stop(folder, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workdir, "save_model", stop)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path, *whole)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_reconstructor(tmp_path)
    assert same(load(tmp_path, *whole).variables, load_reconstructor(imported).variables)
