"""Stress tests of films are read from words, and the truth moves with the patient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.data.phantom import chest
from dvg_jax.data.sources import ArraySource
from dvg_jax.errors import UserError
from dvg_jax.evaluate.stress import ALL, NAMES, Moved, Trial, moved, trials_of

DRAW = jax.jit(chest, static_argnums=1)


def test_standard_trials_cover_every_imperfection():
    assert {trial.name for trial in trials_of("standard")} == {*NAMES, "none", "all"}
    assert trials_of("height_mm:5, curve:0.2") == [Trial("height_mm", 5.0), Trial("curve", 0.2)]


@pytest.mark.parametrize(
    "word", ["height_mm", "height:5", "height_mm:x", "height_mm:-1", "height_mm:inf", "curve:0.1,"]
)
def test_other_words_are_refused(word):
    with pytest.raises(
        UserError, match=r"config\.evaluate\.stress has .*; allowed: standard, or NAME:SIZE of shift_mm, "
    ):
        trials_of(word)


@pytest.mark.parametrize("word", ["height_mm:81", "scale:1e300", "shift_mm:161", "all:20"])
def test_sizes_that_no_film_has_are_refused(word):
    with pytest.raises(UserError, match=r"config\.evaluate\.stress has .*; allowed: a number from 0 to "):
        trials_of(word)


def test_a_trial_has_its_own_imperfection_alone():
    trial = Trial("scale", 0.05)
    assert (trial.imperfections.scale, trial.imperfections.height_mm, trial.shift_mm) == (0.05, 0, 0)
    assert not Trial("none", 0).imperfections
    together = Trial("all", 0.5)
    assert (together.imperfections.height_mm, together.shift_mm) == (0.5 * ALL["height_mm"], 0.5 * ALL["shift_mm"])


def test_a_patient_stands_elsewhere():
    """He moves by one voxel of 20 mm towards the head and by two to the right."""
    ct = DRAW(jax.random.key(0), 16)
    found = moved(ct, jnp.array([20.0, 0.0, -40.0]))
    np.testing.assert_allclose(found[1:, :, :-2], ct[:-1, :, 2:], atol=1e-6)
    np.testing.assert_allclose(found[0, :, :-2], ct[0, :, 2:], atol=1e-6)  # its lowest slice goes on


def test_places_are_those_of_the_case_and_the_seed():
    cts = np.stack([np.asarray(DRAW(jax.random.key(i), 16)) for i in range(2)])[..., None]
    source = ArraySource({"ct": cts})
    one, again, other = (Moved(source, Trial("shift_mm", 10.0), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one[1]["ct"], again[1]["ct"])
    assert any(np.abs(one[i]["ct"] - other[i]["ct"]).max() > 0.01 for i in range(2))
    assert np.abs(one[0]["ct"] - cts[0]).max() > 0.01
    np.testing.assert_array_equal(Moved(source, Trial("curve", 0.3), 0)[1]["ct"], cts[1])
