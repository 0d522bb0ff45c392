"""The schedule against its definition; its tables are compared in tests/parity."""

import numpy as np
import pytest

from dvg_jax.diffusion import Schedule
from dvg_jax.errors import UserError


def test_betas_follow_the_squared_cosine():
    schedule = Schedule(100)
    abar = schedule.alphas_cumprod
    i = np.arange(1, 101)
    exact = np.cos((i / 100 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    # The last beta is clipped; before it abar is the cosine itself, up to rounding in float64.
    np.testing.assert_allclose(abar[:-1], exact[:-1], rtol=1e-10)
    assert schedule.betas.max() == schedule.max_beta
    assert (np.diff(abar) < 0).all()


def test_no_timesteps_are_refused():
    with pytest.raises(UserError, match="timesteps is 0"):
        Schedule(0)
