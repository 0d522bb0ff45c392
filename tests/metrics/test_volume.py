"""Every figure against an independent implementation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dvg_jax.errors import UserError
from dvg_jax.metrics import psnr_volume, ssim_3d
from dvg_jax.metrics.volume import (
    lpips_slices,
    lpips_sum,
    psnr_slices,
    ssim_images,
    ssim_slices,
    view_metrics,
    volume_figures,
)


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    a = rng.random((12, 14, 16)).astype(np.float32)
    return a, np.clip(a + 0.1 * rng.standard_normal(a.shape), 0, 1).astype(np.float32)


def test_volume_psnr(pair):
    a, b = pair
    assert float(psnr_volume(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-3)


def test_slice_psnr_and_ssim_over_three_axes(pair):
    a, b = pair
    for axis in range(3):
        slices = list(zip(np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0), strict=True))
        by_hand = np.mean([peak_signal_noise_ratio(x, y, data_range=1) for x, y in slices])
        assert float(psnr_slices(a, b)[axis]) == pytest.approx(by_hand, abs=1e-3)
        by_hand = np.mean([structural_similarity(x, y, data_range=1) for x, y in slices])
        assert float(ssim_slices(a, b)[axis]) == pytest.approx(by_hand, abs=1e-5)


def test_3d_ssim(pair):
    a, b = pair
    assert float(jax.jit(ssim_3d)(a, b)) == pytest.approx(structural_similarity(a, b, data_range=1), abs=1e-5)


def test_figures_of_a_case(pair):
    a, b = pair
    names = ("psnr", "psnr_slices", "psnr_x2ct", "ssim", "mae_hu")
    figures = volume_figures(names, a, b)
    assert figures["psnr_x2ct"] - figures["psnr"] == pytest.approx(20 * np.log10(4095 / 2500), abs=1e-4)
    assert figures["mae_hu"] == pytest.approx(2500 * np.abs(a - b).mean(), rel=1e-5)
    assert {name: float(x) for name, x in volume_figures(names, a, a).items()} == pytest.approx(
        {"psnr": 100, "psnr_slices": 100, "psnr_x2ct": 100, "ssim": 1, "mae_hu": 0}, abs=1e-5
    )


def test_lpips_is_the_mean_over_slices_and_the_sum_is_the_published_one(pair):
    a, b = pair

    def distance(x, y):
        return jnp.abs(x - y).mean(axis=(1, 2, 3))

    per_axis = np.asarray(lpips_slices(a, b, distance))
    np.testing.assert_allclose(per_axis, np.abs(a - b).mean(), rtol=1e-5)
    assert float(lpips_sum(per_axis, a.shape)) == pytest.approx(np.mean(per_axis * a.shape), rel=1e-5)


def test_views(pair):
    a, b = pair[0][0], pair[1][0]
    figures = view_metrics(a, b)
    assert figures["psnr"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-3)
    assert figures["ssim"] == pytest.approx(structural_similarity(a, b, data_range=1), abs=1e-5)


def test_slices_too_small_for_a_window_are_refused():
    with pytest.raises(UserError, match=r"\(6, 9\); allowed"):
        ssim_images(jnp.zeros((1, 6, 9)), jnp.zeros((1, 6, 9)))


def test_psnr_has_finite_gradients_for_equal_volumes():
    chex.assert_tree_all_finite(jax.grad(lambda x: psnr_volume(x, jnp.ones((8, 8, 8))))(jnp.ones((8, 8, 8))))


def test_the_cosine_with_air_alone_is_zero(pair):
    assert volume_figures(("cosine",), pair[0], np.zeros_like(pair[0]))["cosine"] == 0
