"""The schedule against the published buffers and against its definition."""

import numpy as np
import pytest

from dvg_jax.diffusion import Schedule, add_noise
from dvg_jax.errors import UserError
from tests.paths import GOLDEN, needs_shared


def test_betas_follow_the_squared_cosine():
    schedule = Schedule(100)
    abar = schedule.alphas_cumprod
    i = np.arange(1, 101)
    exact = np.cos((i / 100 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    # The last beta is clipped; before it abar is the cosine itself, up to rounding in float64.
    np.testing.assert_allclose(abar[:-1], exact[:-1], rtol=1e-10)
    assert schedule.betas.max() == schedule.max_beta
    assert (np.diff(abar) < 0).all()


@needs_shared
def test_published_buffers():
    golden = np.load(GOLDEN / "diffusion_schedule.npz")
    schedule = Schedule(100)
    of_z0, of_zt = schedule.posterior_coefficients
    ours = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "alphas_cumprod_prev": schedule.alphas_cumprod_prev,
        "posterior_variance": schedule.posterior_variance,
        "posterior_mean_coef1": of_z0,
        "posterior_mean_coef2": of_zt,
        "posterior_log_variance_clipped": np.log(np.maximum(schedule.posterior_variance, 1e-20)),
    }
    for name, value in ours.items():
        # The published buffers are float32 casts: half a unit in their last place, relative 6e-8.
        np.testing.assert_allclose(value, golden[f"buf/{name}"], rtol=1e-6, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(schedule.betas, golden["betas_float64"], rtol=1e-12)
    np.testing.assert_allclose(Schedule(1000).betas, golden["betas_float64_T1000"], rtol=1e-10)


@needs_shared
def test_published_noising():
    golden = np.load(GOLDEN / "diffusion_schedule.npz")
    z_t = add_noise(Schedule(100), golden["q_x0"], golden["q_t"], golden["q_noise"])
    np.testing.assert_allclose(z_t, golden["q_xt"], rtol=1e-5, atol=1e-6)


def test_no_timesteps_are_refused():
    with pytest.raises(UserError, match="timesteps is 0"):
        Schedule(0)
