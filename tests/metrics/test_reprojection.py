"""Angles, errors of line integrals against NumPy, and the control's partners."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from dvg_jax.metrics.reprojection import blind_partners, reprojection_metrics, unseen_angle


@pytest.mark.parametrize(
    ("used", "angle"),
    [
        ((0, 90, 45), 135),
        ((0, 90), 45),
        ((0,), 90),
        ((0, 60, 120), 30),
        ((0, 180), 90),
        ((-90, 0), 45),
        ((10, 170), 90),
        ((80, 100), 0),
    ],
)
def test_the_unseen_angle_is_the_middle_of_the_widest_gap(used, angle):
    assert unseen_angle(used) == pytest.approx(angle)


def test_errors_against_numpy():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, (3, 12, 10)).astype(np.float32)
    result = (truth + rng.normal(0, 0.2, truth.shape)).astype(np.float32)
    films = [(x - x.min()) / (x.max() - x.min()) for x in (*truth, *result)]
    psnr = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(films[:3], films[3:], strict=True)]
    lines = [np.sqrt(((b - a) ** 2).mean() / (a**2).mean()) for a, b in zip(truth, result, strict=True)]
    assert reprojection_metrics(truth, result) == pytest.approx(
        {
            "shown_film_psnr": np.mean(psnr[:2]),
            "shown_line_error": np.mean(lines[:2]),
            "unseen_film_psnr": psnr[2],
            "unseen_line_error": lines[2],
        },
        rel=1e-4,
    )


def test_a_film_forgives_exposure_and_line_integrals_do_not():
    truth = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    figures = reprojection_metrics(truth, 1.1 * truth)
    assert figures["shown_film_psnr"] > 90
    assert figures["shown_line_error"] == pytest.approx(0.1, rel=1e-4)


def test_partners_are_other_patients():
    assert blind_partners(["a", "a", "b"]) == [2, 2, 0]
    assert blind_partners([0, 1, 2]) == [1, 2, 0]
    assert blind_partners(["a", "a"]) == [None, None]
