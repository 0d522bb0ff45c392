"""Errors by tissue against NumPy, and the laws of bands."""

import itertools

import numpy as np
import pytest

from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.tissue import BANDS, mae_hu_by_band
from dvg_jax.metrics.volume import FIGURES


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(1)
    truth = rng.integers(-1024, 1477, (9, 10, 11))
    return truth, np.clip(truth + rng.normal(0, 80, truth.shape), -1024, 1476)


def test_bands_are_disjoint_and_cover_the_window():
    assert [b.name for b in BANDS] == ["air", "lung", "fat", "soft", "bone"]
    assert all(a.high_hu == b.low_hu for a, b in itertools.pairwise(BANDS))
    assert (BANDS[0].low_hu, BANDS[-1].high_hu) == (-np.inf, np.inf)
    assert all(band.figure in FIGURES for band in BANDS)


def test_against_numpy_with_limits_in_whole_hu(pair):
    truth, result = pair
    by_hand = [
        np.abs(result - truth)[(truth >= low) & (truth <= high)].mean()
        for low, high in ((-1024, -951), (-950, -191), (-190, -30), (-29, 150), (151, 1476))
    ]
    found = mae_hu_by_band(*(hu_to_intensity(x.astype(np.float32)) for x in pair))
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_shares_times_errors_are_the_overall_error(pair):
    truth = pair[0]
    figures = Measures().volume(*(hu_to_intensity(x.astype(np.float32)) for x in pair))
    share = [((truth >= b.low_hu) & (truth < b.high_hu)).mean() for b in BANDS]
    overall = sum(s * figures[b.figure] for s, b in zip(share, BANDS, strict=True))
    assert overall == pytest.approx(figures["mae_hu"], rel=1e-5)


def test_a_method_cannot_move_voxels_between_bands():
    soft = hu_to_intensity(np.full((8, 8, 8), 40.0, np.float32))
    bone = hu_to_intensity(np.full((8, 8, 8), 700.0, np.float32))
    found = np.asarray(mae_hu_by_band(soft, bone))
    np.testing.assert_allclose(found, [np.nan, np.nan, np.nan, 660, np.nan], rtol=1e-5)
