"""Values that cannot be HU are refused or noted, whatever pads them; HU in any field of view pass."""

import numpy as np
import pytest

from dvg_jax.data.drr import render_scan
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from dvg_jax.metrics.compare import compare
from dvg_jax.xray import ConeBeamGeometry
from tests.cases.chest import AFFINE, HU, circle, nifti
from tests.data import made

STORED = HU + 1024
WRONG = {
    "stored": STORED,
    "stored, padded": circle(STORED, -2000),
    "stored, padded like air": circle(STORED, -1000),
    "stored, padded with 0": circle(STORED, 0),
    "tenfold": HU * 10,
    "tenfold, padded": circle(HU * 10, -20000),
    "negated": -HU,
    "negated, padded": circle(-HU, -2000),
    "wrapped": np.where(HU < 0, HU + 65536, HU),
    "wrapped, padded": circle(np.where(HU < 0, HU + 65536, HU), -2000),
    "unit interval, padded": circle((HU.clip(-1024, 1476) + 1024) / 2500, -1),
    "from -1 to 1": (HU.clip(-1024, 1476) + 1024) / 1250 - 1,
    "8 bit, padded": circle(((HU.clip(-160, 240) + 160) * 255 / 400).round(), -1000),
    "per thousand": HU / 1000,
    "intercept twice": HU - 1024,
    "intercept twice, clipped": (HU - 1024).clip(-1024),
}
RIGHT = {
    "plain": HU,
    "padded": circle(HU, -2000),
    "padded, GE": circle(HU, -3024),
    "padded, 16 bit": circle(HU, -32768),
    "noisy": HU + np.random.default_rng(1).normal(0, 100, HU.shape),
    "within the body": HU[10:26, 8:22, 9:24],
    "metal": np.where(HU > 500, 3071, HU),
    "cut out": np.where(HU < -950, -1024, HU),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_hu_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="allowed: HU"):
        load_scan(nifti(tmp_path / "a.nii", WRONG[name])).checked()


@pytest.mark.parametrize("name", RIGHT)
def test_hu_are_not_refused(tmp_path, name):
    scan = load_scan(nifti(tmp_path / "a.nii", RIGHT[name])).checked()
    np.testing.assert_allclose(scan.hu, np.maximum(RIGHT[name], -1024), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "looks_like"),
    [("stored, padded", r"HU \+ 1024"), ("tenfold", "10 times"), ("negated", "sign"), ("wrapped", "65536")],
)
def test_the_reason_names_the_likely_scale(tmp_path, name, looks_like):
    with pytest.raises(UserError, match=f"these look like .*{looks_like}"):
        load_scan(nifti(tmp_path / "a.nii", WRONG[name])).checked()


def test_prepare_drr_and_compare_judge_alike(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    bad = nifti(tmp_path / "in" / "p1.nii.gz", WRONG["stored, padded"])
    good = nifti(tmp_path / "good.nii.gz")
    (row,), _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert row.status == "refused"
    assert "allowed: HU" in row.reason
    with pytest.raises(UserError, match="allowed: HU"):
        render_scan(bad, (0.0,), tmp_path / "films", ConeBeamGeometry.covering(size=16))
    assert not (tmp_path / "films").exists()
    with pytest.raises(UserError, match="allowed: HU"):
        compare(bad, good)
    compare(good, bad)  # a model's output may be anything: a warning, no refusal
    assert "allowed: HU" in capsys.readouterr().err


def test_a_fill_of_water_around_the_field_of_view_is_air(tmp_path):
    scan = load_scan(nifti(tmp_path / "a.nii", circle(HU, 0)))
    np.testing.assert_array_equal(scan.hu, circle(HU, -1024))
    assert "taken for air" in " ".join(scan.notes)


def _series(folder, stored=STORED, change=lambda item, d: None, signed=False):
    def written(item, d):
        item.PixelRepresentation = int(signed)
        item.PixelData = stored[d].astype(np.int16 if signed else np.uint16).tobytes()
        change(item, d)

    return made.write_series(folder, HU, AFFINE, change=written)


def _without_rescale(item, d):
    del item.RescaleSlope, item.RescaleIntercept


def _slope_0(item, d):
    item.RescaleSlope = 0


def test_slices_without_rescale_are_judged_by_their_values(tmp_path):
    with pytest.raises(UserError, match=r"HU \+ 1024.*36 slices state no rescale"):
        load_scan(_series(tmp_path / "raw", change=_without_rescale)).checked()
    scan = load_scan(_series(tmp_path / "hu", HU, _without_rescale, signed=True))
    np.testing.assert_array_equal(scan.hu, HU)
    assert "36 slices state no rescale" in scan.notes[0]


def test_a_slope_of_0_is_said(tmp_path):
    scan = load_scan(_series(tmp_path / "s", change=_slope_0))
    np.testing.assert_array_equal(scan.hu, HU)
    assert "slope of 0" in scan.notes[0]


def test_slices_of_two_scales_are_refused(tmp_path):
    some = lambda item, d: _without_rescale(item, d) if d in (7, 8) else None  # noqa: E731
    with pytest.raises(UserError, match="2 of 36 slices state no rescale"):
        load_scan(_series(tmp_path / "s", change=some))


def test_a_first_slice_of_another_type_does_not_wrap_the_others_round(tmp_path):
    def change(item, d):
        if d == 0:
            item.RescaleIntercept, item.PixelData = 0, bytes(len(item.PixelData))

    scan = load_scan(_series(tmp_path / "s", change=change))
    np.testing.assert_array_equal(scan.hu, HU[1:])
    assert scan.notes == ("1 blank slices at the ends left out",)


def test_a_blank_slice_within_is_refused(tmp_path):
    def change(item, d):
        if d == 9:
            item.RescaleIntercept, item.PixelData = 0, bytes(len(item.PixelData))

    with pytest.raises(UserError, match="1 slices within the series are blank"):
        load_scan(_series(tmp_path / "s", change=change))


def test_padding_with_the_value_of_tissue_is_only_what_reaches_the_edge(tmp_path):
    padded = circle(HU, 0)
    padded[10:20, 15:17, 15:17] = 0
    scan = load_scan(
        _series(tmp_path / "s", padded + 1024, change=lambda item, d: setattr(item, "PixelPaddingValue", 1024))
    )
    assert (scan.hu[:, 0, 0] == -1024).all()
    assert (scan.hu[10:20, 15:17, 15:17] == 0).all()
    assert any("PixelPaddingValue" in note for note in scan.notes)
