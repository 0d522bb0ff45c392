"""No command overwrites its inputs, however the path is spelled; it refuses before it computes anything."""

import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data import drr
from dvg_jax.errors import UserError
from dvg_jax.evaluate.run import evaluate
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.torch_import import command
from tests import released
from tests.cases.made_results import a_film
from tests.tiny import get_config


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make a folder with a film and a CT, and a run that cannot compute anything."""
    a_film(tmp_path / "ap.png")
    save_nifti(tmp_path / "ct.nii.gz", np.zeros((16, 16, 16)), frame_affine((16, 16, 16), 20.0))
    (tmp_path / "run" / "ct_vqgan").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "run" / "ct_vqgan" / "weights.json").write_text("{}")
    os.link(tmp_path / "ct.nii.gz", tmp_path / "hard.nii.gz")
    (tmp_path / "soft.nii.gz").symlink_to("ct.nii.gz")
    (tmp_path / "folder").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "flags",
    [
        ["--truth=ct.nii.gz", "--output=ct.nii.gz"],
        ["--like=ct.nii.gz", "--output=run/../ct.nii.gz"],
        ["--like=ct.nii.gz", "--output=folder/ct.nii.gz"],
        ["--like=ct.nii.gz", "--output=hard.nii.gz"],
        ["--like=soft.nii.gz", "--output=ct.nii.gz"],
        ["--like=ct.nii.gz", "--output=soft.nii.gz"],
        ["--like=case_mean.nii.gz", "--output=case.nii.gz"],  # by a derived name
        ["--like=case_std.nii.gz", "--output=case.nii"],
        ["--output=run/config.nii.gz"],  # its record would be the run's config
        ["--output=run/ct_vqgan/weights.nii.gz"],
        ["--output=new.nii.gz", "--report=page.html"],
        ["--output=new.nii.gz", "--dicom=series", "--report=series/page.html"],
    ],
)
def test_reconstruct(fails, here, flags):
    for name in ("case_mean", "case_std"):
        save_nifti(here / f"{name}.nii.gz", np.zeros((16, 16, 16)), frame_affine((16, 16, 16), 20.0))
    os.link(here / "ap.png", here / "page.html")
    if "--report=series/page.html" in flags:
        (here / "series").mkdir()
    before = contents(here)
    said = fails(reconstruct.main, "--workdir=run", "--xray=ap.png@0", *flags)
    assert "would write" in said
    assert "allowed: no input" in said or "allowed: different places" in said
    assert contents(here) == before


def test_a_record_that_is_not_ours_is_no_output(fails, here):
    """Other programs may keep a JSON file next to a NIfTI under the same name."""
    (here / "new.json").write_text(json.dumps({"EchoTime": 1}))
    said = fails(reconstruct.main, "--workdir=run", "--xray=ap.png@0", "--output=new.nii.gz")
    assert "would replace new.json" in said
    assert json.loads((here / "new.json").read_text()) == {"EchoTime": 1}


@pytest.mark.parametrize("output", [".", "folder", "run/.."])
def test_drr_into_the_scans_folder(fails, here, output):
    before = contents(here)
    for scan in ("ct.nii.gz", "hard.nii.gz", "soft.nii.gz"):
        said = fails(drr.main, f"--ct={scan}", "--angle=0", f"--output={output}", "--size=16")
        assert f"which --ct reads{'' if output == '.' and scan == 'ct.nii.gz' else f' as {scan}'}" in said
    assert contents(here) == before


def test_drr_replaces_nobodys_film_and_ct(fails, here):
    """Real films are numbered in the same way as rendered ones."""
    (here / "films").mkdir()
    a_film(here / "films" / "xray_000.png")
    before = contents(here)
    said = fails(drr.main, "--ct=ct.nii.gz", "--angle=0", "--output=films", "--size=16")
    assert "xray_000.png, which drr has not written" in said
    (here / "other").mkdir()
    save_nifti(here / "other" / "ct.nii.gz", np.ones((8, 8, 8)), frame_affine((8, 8, 8), 20.0))
    assert "which drr has not written" in fails(drr.main, "--ct=ct.nii.gz", "--angle=0", "--output=other", "--size=16")
    assert {name: held for name, held in contents(here).items() if name != "other/ct.nii.gz"} == before


@pytest.mark.parametrize("kind", ["plain bytes under .gz", "NIfTI-2", "no NIfTI"])
def test_drr_replaces_nobodys_ct_whatever_its_content(fails, here, kind):
    (here / "other").mkdir()
    kept, image = here / "other" / "ct.nii.gz", nib.Nifti2Image(np.ones((8, 8, 8), np.int16), np.eye(4))
    content = {"NIfTI-2": gzip.compress(image.to_bytes()), "no NIfTI": b"mine"}
    raw = nib.Nifti1Image(np.ones((8, 8, 8), np.int16), np.eye(4)).to_bytes()
    kept.write_bytes(content.get(kind, raw))
    before = contents(here)
    assert "which drr has not written" in fails(drr.main, "--ct=ct.nii.gz", "--angle=0", "--output=other", "--size=16")
    assert contents(here) == before


def test_evaluate_writes_no_page_over_the_runs_config(here):
    (here / "page.html").symlink_to("run/config.json")
    with pytest.raises(UserError, match=r"--report would write page\.html, which --workdir reads"):
        evaluate(get_config(), Path("run"), report=Path("page.html"))


def test_an_import_does_not_delete_its_checkpoint(fails, here):
    model = here / "run" / "ct_vqgan" / "model"
    model.mkdir()
    released.write_lightning(model / "CT_VQGAN.ckpt", released.vqgan_state())
    (here / "run" / "config.json").unlink()
    said = fails(command.main, f"--vqgan={model / 'CT_VQGAN.ckpt'}", "--workdir=run")
    assert "would replace run/ct_vqgan/model, where --vqgan reads" in said
    assert (model / "CT_VQGAN.ckpt").is_file()
