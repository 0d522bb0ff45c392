"""Intervals against closed forms, p values against SciPy."""

import numpy as np
import pytest
from scipy import stats

from dvg_jax.metrics.bootstrap import mean_interval, sign_flip_p


def test_interval_of_many_normal_cases_is_the_textbooks():
    values = np.random.default_rng(0).normal(20, 3, 400)
    mean, low, high = mean_interval(values, range(400))
    half = 1.96 * values.std() / np.sqrt(400)
    assert mean == pytest.approx(values.mean())
    # 2000 resamples leave the ends uncertain by about 4 % of the half width.
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.12 * half)


def test_interval_of_zeros_and_ones_is_the_binomials():
    values = np.repeat([0.0, 1.0], [60, 40])
    _, low, high = mean_interval(values, range(100))
    exact = stats.binom.ppf([0.025, 0.975], 100, 0.4) / 100
    assert (low, high) == pytest.approx(tuple(exact), abs=0.011)


def test_scans_of_a_patient_are_drawn_together():
    values = np.random.default_rng(1).normal(0, 1, 30)
    patients = np.repeat(np.arange(30), 5).tolist()
    once = mean_interval(values, range(30))
    assert mean_interval(np.repeat(values, 5), patients) == pytest.approx(once)
    _, low, high = mean_interval(np.repeat(values, 5), range(150))
    assert high - low < 0.6 * (once[2] - once[1])  # what is claimed if scans are taken for patients: 1 / sqrt(5)


def test_patients_count_by_their_scans_in_the_mean():
    assert mean_interval(np.array([0.0, 0.0, 3.0]), ["a", "a", "b"])[0] == 1


def test_a_case_without_a_value_is_left_out():
    values, patients = np.array([1.0, np.nan, 2.0, 4.0]), ["a", "b", "c", "d"]
    assert mean_interval(values, patients) == mean_interval(values[[0, 2, 3]], ["a", "c", "d"])
    assert np.isnan(mean_interval(np.array([np.nan]), ["a"])).all()
    assert np.isnan(sign_flip_p(np.array([np.nan]), ["a"]))


@pytest.mark.parametrize(("n", "shift"), [(4, 0.5), (9, 0.8), (12, 0.0)])
def test_exact_p_is_scipys(n, shift):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0, 1, n), rng.normal(shift, 1, n)

    def mean(x, y, axis):
        return np.mean(y - x, axis=axis)

    theirs = stats.permutation_test((a, b), mean, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert sign_flip_p(b - a, range(n)) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_random_p_is_near_the_t_tests():
    differences = np.random.default_rng(5).normal(0.25, 1, 60)
    assert sign_flip_p(differences, range(60)) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.15)


def test_smallest_p_and_largest_p():
    assert sign_flip_p(np.ones(4), range(4)) == 2 / 2**4
    assert sign_flip_p(np.array([0.1, 0.2, -0.3]), range(3)) == 1
    assert sign_flip_p(np.ones(40), np.repeat(np.arange(4), 10).tolist()) == 2 / 2**4
