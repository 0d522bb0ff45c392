"""Estimate how certain a mean over cases is by resampling whole patients, with fixed seeds and NumPy alone.

A patient's scans resemble each other, so they are drawn together and flip together. A case whose value is NaN is left
out.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int, Num

RESAMPLES = 2000
EXACT_UP_TO = 16
"""Patients for which all 2^n sign patterns are tried."""

RANDOM_PATTERNS = 100_000
CHUNK = 10_000

Values = Float[np.ndarray, "n"]


def mean_interval(values: Values, patients: Sequence[Hashable]) -> tuple[float, float, float]:
    """Return the mean over cases and the ends of its 95 % percentile bootstrap interval over patients.

    Patients are resampled with replacement. Each resample gives the mean over all cases of its patients. All three are
    NaN without a value.
    """
    sums, counts = _by_patient(values, patients)
    if not len(sums):
        return (float("nan"),) * 3
    picks = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def sign_flip_p(differences: Values, patients: Sequence[Hashable]) -> float:
    """Return the two-sided p value of a mean paired difference.

    The hypothesis: each patient's difference could as well have had the other sign. The value is exact for up to 16
    patients, where it cannot be under 2 / 2^n. For more it comes from 100 000 random patterns, the observed one counted
    among them. It is NaN without a value.
    """
    sums, _ = _by_patient(differences, patients)
    n = len(sums)
    if not n:
        return float("nan")
    # A sum that differs from the observed one by rounding alone counts as equal to it.
    observed = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()
    exact = n <= EXACT_UP_TO
    total = 2**n if exact else RANDOM_PATTERNS
    random = np.random.default_rng(0)
    beyond = 0
    for start in range(0, total, CHUNK):
        count = min(CHUNK, total - start)
        bits = (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1 if exact else None
        signs = 1 - 2 * (bits if bits is not None else random.integers(0, 2, (count, n)))
        beyond += int((np.abs(signs @ sums) >= observed).sum())
    return beyond / total if exact else (beyond + 1) / (total + 1)


def _by_patient(
    values: Values, patients: Sequence[Hashable]
) -> tuple[Num[np.ndarray, "patients"], Int[np.ndarray, "patients"]]:
    """Return sum and number of the finite values of each patient who has one, in order of first appearance."""
    places = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
    groups = np.array([places[p] for p in patients], int)
    finite = np.isfinite(values)
    sums = np.bincount(groups[finite], np.asarray(values, np.float64)[finite], minlength=len(places))
    counts = np.bincount(groups[finite], minlength=len(places))
    return sums[counts > 0], counts[counts > 0]
