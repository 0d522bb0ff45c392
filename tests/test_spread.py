"""The coverage of intervals from samples, for samples whose true coverage is known."""

import numpy as np
import pytest

from benchmarks.spread import figures_of
from dvg_jax.calibration import SHARES


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_coverage_and_width_are_those_of_normal_samples(scale):
    random = np.random.default_rng(0)
    truth = random.normal(0, 40, (24, 16, 16))
    samples = scale * random.normal(0, 40, (1000, 12, 16, 16))
    truth[12:] = -1024  # air does not count
    samples = np.concatenate([samples, np.zeros_like(samples)], axis=1)
    found = figures_of(samples, truth)
    expected = {1.0: SHARES, 0.1: (5.4, 10.2, 13.1, 15.5)}[scale]
    assert [found[f"{share} %"] for share in SHARES] == pytest.approx(expected, abs=1.5)
    assert found["half width of 90 %, HU"] == pytest.approx(65.8 * scale, rel=0.02)
    assert found["error / spread"] == pytest.approx(1 / scale, rel=0.03)
