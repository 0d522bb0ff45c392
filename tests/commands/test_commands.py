"""The commands on a trained folder: what they write, and that the result lies where the patient does."""

import csv
import json

import jax
import nibabel as nib
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.commands import evaluate, reconstruct
from dvg_jax.data.films import write_picture
from tests.tiny import get_config

CONFIG = "tests/tiny.py"


@pytest.fixture(scope="module")
def reconstructor(trained):
    return load_reconstructor(trained)


@pytest.fixture(scope="module")
def xrays():
    return np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)


def test_evaluate_writes_tables_and_pictures(trained, capsys):
    evaluate.main([f"--config={CONFIG}", f"--workdir={trained}"])
    told = capsys.readouterr().out
    folder = trained / "evaluation"
    with (folder / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows}
    assert methods == {"mean training volume", "CT VQGAN of the truth", "DVG-Net", "DVG-Diffusion"}
    assert all(method in told for method in methods)
    assert len(rows) == 4 * get_config().evaluate.cases
    assert all(np.isfinite(float(row["psnr"])) for row in rows)
    assert (folder / "views.csv").is_file()
    with (folder / "reprojections.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == methods | {"DVG-Diffusion of another patient"}
    assert len(list((folder / "pictures").glob("*.png"))) == 2


def test_reconstruct_writes_hu_with_an_affine_and_a_record(trained, tmp_path, xrays):
    for name, view in zip(("ap", "lat"), xrays, strict=True):
        write_picture(tmp_path / f"{name}.png", view)
    output = tmp_path / "ct.nii.gz"
    films = [f"--xray={tmp_path / 'ap.png'}@0", f"--xray={tmp_path / 'lat.png'}@90"]
    reconstruct.main([f"--workdir={trained}", *films, f"--output={output}", "--seed=3", "--steps=2"])
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
    assert record["steps"] == 2
    assert [x["angle_deg"] for x in record["xrays"]] == [0.0, 90.0]


def test_the_key_decides_the_sample(reconstructor, xrays):
    first, again = (reconstructor(xrays, (0, 90), key=jax.random.key(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = reconstructor(xrays, (0, 90), key=jax.random.key(2))
    assert float(np.abs(first - other).max()) > 0


def test_contrast_and_brightness_of_a_film_do_not_matter(reconstructor, xrays):
    first = reconstructor(xrays, (0, 90))
    scaled = reconstructor(0.3 * xrays + 0.2, (0, 90))
    np.testing.assert_allclose(first, scaled, atol=1e-2)


def test_single_precision_cube(reconstructor, xrays):
    ct = reconstructor(xrays, (5, 88), steps=1)
    assert ct.shape == (16, 16, 16)
    assert float(ct.min()) >= 0
    assert float(ct.max()) <= 1
