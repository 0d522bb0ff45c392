"""A scan to films and back to where it lies."""

import nibabel as nib
import numpy as np
import pytest

from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data import drr
from dvg_jax.data.films.read import read_film
from dvg_jax.errors import UserError
from dvg_jax.metrics import compare
from dvg_jax.reconstruct import command as reconstruct

# (d, h, w) to RAS: W to the left, H to the back, D to the head, off the origin.
AFFINE = np.array([[0, 0, -4, 60], [0, -4, 0, 70], [4, 0, 0, -300], [0, 0, 0, 1]], np.float64)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A water cylinder with a dense rod, off the scanner's origin, rendered at 0 and 90 degrees for 16^3."""
    folder = tmp_path_factory.mktemp("drr")
    h, w = np.mgrid[:48, :64]
    body = np.hypot((h - 24) / 20, (w - 32) / 28) < 1
    hu = np.where(body, 0.0, -1000.0)[None].repeat(40, 0)
    hu[28:36, 30:36, 12:18] = 900.0  # high D: towards the head; high H: behind; low W: the patient's right
    save_nifti(folder / "scan.nii.gz", hu, AFFINE)
    drr.main([
        "--ct", str(folder / "scan.nii.gz"), "--angle", "0", "--angle", "90", "--output", str(folder / "films"),
        "--size", "16", "--geometry", "covering",
    ])  # fmt: skip
    return folder / "films"


def test_films_show_the_rod_where_it_is(films):
    for angle, columns in (("000", slice(0, 8)), ("090", slice(8, 16))):  # the patient's right; behind
        film = read_film(films / f"xray_{angle}.png").image
        row, column = np.unravel_index((film - film[::-1, ::-1]).argmax(), film.shape)
        assert row >= 8  # towards the head, which is at the array's end
        assert column in range(16)[columns]


def test_a_reconstruction_lies_on_the_scan_it_was_made_for(films, trained, tmp_path):
    result = tmp_path / "ct.nii.gz"
    views = [f"--xray={films / 'xray_000.png'}@0", f"--xray={films / 'xray_090.png'}@90"]
    truth = films / "ct.nii.gz"
    reconstruct.main([f"--workdir={trained}", *views, f"--output={result}", f"--like={truth}", "--steps=1"])
    np.testing.assert_allclose(nib.load(result).affine, nib.load(truth).affine, atol=1e-4)
    figures = compare.compare(truth, result)
    assert np.isfinite(list(figures.values())).all()
    assert compare.compare(truth, truth)["psnr"] == 100


def test_volumes_that_do_not_overlay_are_not_compared(films, tmp_path):
    moved = nib.load(films / "ct.nii.gz")
    affine = moved.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(moved.dataobj, affine), tmp_path / "moved.nii.gz")
    with pytest.raises(UserError, match="allowed: the voxels of"):
        compare.compare(films / "ct.nii.gz", tmp_path / "moved.nii.gz")


def test_like_must_be_of_the_models_size(fails, films, trained, tmp_path):
    views = [f"--xray={films / 'xray_000.png'}@0", f"--xray={films / 'xray_090.png'}@90"]
    scan = films.parent / "scan.nii.gz"
    said = fails(reconstruct.main, "--workdir", trained, *views, "--output", tmp_path / "ct.nii.gz", f"--like={scan}")
    assert "--like is" in said
    assert "(16, 16, 16)" in said
    assert not list(tmp_path.iterdir())
