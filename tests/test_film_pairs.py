"""Pairing of films and the AUC of true film pairs, without a model."""

import numpy as np
import pytest

from benchmarks.film_pairs import auc, pairs_of
from dvg_jax.errors import UserError


def test_films_are_paired_by_their_names(tmp_path):
    for name in (
        "b_p1_d0_pa",
        "b_p1_d0_lat",
        "a_2_ap",
        "a_2_lat",
        "alone_pa",
        "lonely_lat",
        "b_p1_d90_pa",
        "b_p1_d90_lat",
    ):
        (tmp_path / f"{name}.png").touch()
    found = pairs_of(tmp_path)
    assert [(pair.name, pair.frontal.name, pair.lateral.name) for pair in found] == [
        ("a_2", "a_2_ap.png", "a_2_lat.png"),
        ("b_p1_d0", "b_p1_d0_pa.png", "b_p1_d0_lat.png"),
        ("b_p1_d90", "b_p1_d90_pa.png", "b_p1_d90_lat.png"),
    ]
    assert [pair.patient for pair in found] == ["a_2", "b_p1", "b_p1"]


def test_a_folder_without_pairs_is_refused(tmp_path):
    (tmp_path / "a_pa.png").touch()
    with pytest.raises(UserError, match=r"allowed: folders of NAME_pa\.png"):
        pairs_of(tmp_path)


def test_auc_compares_own_films_with_those_of_other_patients():
    likeness = np.array([[0.9, 0.99, 0.1], [0.99, 0.7, 0.8], [0.7, 0.2, 0.6]])
    # The first two are of one patient, so the others are 0.1, 0.8, 0.7 and 0.2.
    assert auc(likeness, ["a", "a", "b"]) == pytest.approx((4 + (2 + 0.5) + 2) / 12)
