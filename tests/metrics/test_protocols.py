"""Protocols: what they hold, that they are frozen, and how LPIPS is put into them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from dvg_jax.ct.nifti import save_nifti
from dvg_jax.errors import UserError
from dvg_jax.metrics import compare
from dvg_jax.metrics import protocols as module
from dvg_jax.metrics.protocols import PROTOCOLS, Measures
from dvg_jax.metrics.volume import FIGURES

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"

FROZEN = {
    "hu": (
        "psnr", "psnr_slices", "ssim", "ssim_3d", "mae_hu", "lpips",
        "mae_hu_air", "mae_hu_lung", "mae_hu_fat", "mae_hu_soft", "mae_hu_bone",
    ),
    "x2ct": ("psnr_x2ct", "psnr_slices_x2ct", "ssim", "mae_unit", "mse_unit", "mae_hu", "mse_hu2", "cosine"),
    "dvg": ("psnr", "ssim", "lpips_sum"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    a = rng.random((8, 9, 10)).astype(np.float32)
    return a, np.clip(a + 0.1 * rng.standard_normal(a.shape), 0, 1).astype(np.float32)


@pytest.fixture
def fake_lpips(monkeypatch):
    """A distance that tells the network and the range it was asked for: 1, 2 for unit, 10 times that for signed."""

    def perceptual(net, value_range="unit"):
        worth = {"vgg": 1.0, "alex": 2.0}[net] * {"unit": 1, "signed": 10}[value_range]
        return lambda a, b: worth * jnp.ones(len(a))

    monkeypatch.setattr(module, "perceptual", perceptual)


def test_figures_of_a_protocol_do_not_change_under_its_name(pair, fake_lpips):
    assert PROTOCOLS.keys() == FROZEN.keys()
    for name, figures in FROZEN.items():
        assert tuple(Measures((name,), "alex").volume(*pair)) == figures


def test_every_figure_is_in_the_document():
    text = DOCUMENT.read_text()
    names = {*FIGURES, "lpips", "lpips_sum"}
    assert not [name for name in names if f"`{name}`" not in text]


def test_a_peak_is_what_its_protocol_says(pair):
    a, b = (np.asarray(x, np.float64) * 2500 for x in pair)
    for protocol, figure, peak in (("hu", "psnr", 2500), ("dvg", "psnr", 2500), ("x2ct", "psnr_x2ct", 4095)):
        assert figure in PROTOCOLS[protocol].figures
        expected = peak_signal_noise_ratio(a, b, data_range=peak)
        assert float(FIGURES[figure](*map(jnp.asarray, pair))) == pytest.approx(expected, abs=1e-3)


def test_errors_of_x2cts_code(pair):
    """On [0, 1] and on 0 to 2500, where its code also cuts values to whole HU, which changes PSNR by under 0.001 dB."""
    a, b = (np.asarray(x, np.float64) for x in pair)
    figures = Measures(("x2ct",)).volume(*pair)
    assert figures["mse_unit"] == pytest.approx(mean_squared_error(a, b), rel=1e-5)
    assert figures["mae_unit"] == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert figures["mse_hu2"] == pytest.approx(mean_squared_error(2500 * a, 2500 * b), rel=1e-5)
    cosine = np.dot(a.ravel(), b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b)
    assert figures["cosine"] == pytest.approx(cosine, abs=1e-6)
    cut = peak_signal_noise_ratio(*((2500 * x).astype(np.int32) for x in (a, b)), data_range=4095)
    assert figures["psnr_x2ct"] == pytest.approx(cut, abs=1e-3)


def test_lpips_is_the_users_in_hu_and_the_papers_in_dvg(pair, fake_lpips):
    both = Measures(("hu", "dvg"), "alex", "signed")
    figures = both.volume(*pair)
    assert (figures["lpips"], figures["lpips_sum"]) == (20, pytest.approx(np.mean(pair[0].shape)))
    assert both.lpips_by == "AlexNet on [-1, 1]"
    view = both.view(pair[0][0], pair[1][0])
    assert (view["lpips"], view["lpips_vgg"]) == (20, 1)


def test_without_a_network_hu_has_no_lpips_and_dvg_has_its_own(pair, fake_lpips):
    assert "lpips" not in Measures().volume(*pair)
    assert Measures().lpips_by == ""
    assert "lpips_sum" in Measures(("dvg",)).volume(*pair)
    assert list(Measures().view(pair[0][0], pair[1][0])) == ["psnr", "ssim"]


def test_tables_hold_every_figure_once_under_its_protocol(pair, fake_lpips):
    measures = Measures(("hu", "dvg", "hu"), "vgg")
    assert list(measures.tables()) == ["Protocol hu", "Protocol hu, by tissue of the truth", "Protocol dvg"]
    named = {name for names in measures.tables().values() for name in names}
    assert named == set(measures.volume(*pair))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"protocols": ("ct",)}, "protocol is 'ct'; allowed: hu, x2ct, dvg"),
        ({"protocols": ()}, "no protocol is chosen; allowed: hu"),
        ({"lpips": "squeeze"}, "LPIPS network is 'squeeze'; allowed: '', vgg, alex"),
        ({"lpips_range": "half"}, "LPIPS range is 'half'; allowed: unit, signed"),
    ],
)
def test_unknown_names(arguments, said):
    with pytest.raises(UserError, match=said):
        Measures(**arguments)


def test_compare_takes_protocols(tmp_path, capsys):
    to_ras = np.array([[0, 0, -4, 0], [0, -4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 1]], np.float64)
    for name, seed in (("a", 0), ("b", 1)):
        hu = np.random.default_rng(seed).uniform(-1000, 400, (8, 8, 8))
        save_nifti(tmp_path / f"{name}.nii.gz", hu, to_ras)
    files = ["--truth", str(tmp_path / "a.nii.gz"), "--result", str(tmp_path / "b.nii.gz")]
    compare.main([*files, "--protocol", "x2ct"])
    told = capsys.readouterr().out
    assert "psnr_x2ct" in told
    assert "psnr_slices_x2ct" in told
    assert "ssim_3d" not in told
