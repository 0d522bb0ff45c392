"""NaN and infinity never pass for a result, wherever a model or its calibration has them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.calibration import LEAST, Calibration, Errors
from dvg_jax.config.build import build_dvg
from dvg_jax.ct.nifti import to_int16
from dvg_jax.data.sources import ArraySource
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import build_procedure
from dvg_jax.evaluate.measure import measure
from dvg_jax.finite import clipped, finite
from dvg_jax.methods.base import Method, Prediction
from dvg_jax.metrics import psnr_volume
from dvg_jax.metrics.tables import whole, write_table
from dvg_jax.reconstruct import outputs
from dvg_jax.reconstruct.outcome import Request
from dvg_jax.reconstruct.reconstructor import sample_keys
from tests.cases.made_results import a_film, an_outcome
from tests.cases.test_inputs_are_kept import contents
from tests.tiny import get_config
from tests.untrained import reconstructor_of, untrained_variables

REFUSED = "has values that are not finite; allowed: numbers"


def test_only_an_error_of_exactly_0_has_100_db():
    truth = jnp.full((8, 8, 8), 0.5)
    assert psnr_volume(truth, truth) == 100
    assert np.isnan(psnr_volume(truth, truth.at[3, 4, 5].set(jnp.nan)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_is_enough_and_no_clip_hides_it(value):
    x = jnp.zeros((4, 4)).at[1, 2].set(value)
    assert np.isnan(clipped(x, 0, 1)[1, 2])
    with pytest.raises(UserError, match=f"^it {REFUSED}"):
        finite("it", (np.zeros(3), [x]))
    with pytest.raises(UserError, match=r"^it has values that are not finite in bad/0; allowed: numbers"):
        finite("it", {"good": np.zeros(3), "bad": [x]})
    with pytest.raises(UserError, match="HU to be written have values that are not finite"):
        to_int16(np.asarray(x)[None])


def test_a_damaged_model_gives_no_ct():
    """A damaged model with quantised latents gave a CT: NaN has a nearest code, and infinity is clipped."""
    variables, films = untrained_variables(), np.random.default_rng(0).random((2, 16, 16), np.float32)
    for stage in variables:
        for value in (np.nan, np.inf):
            leaves, tree = jax.tree.flatten(variables[stage])
            leaves[-2] = leaves[-2].at[(0,) * leaves[-2].ndim].set(value)
            bad = reconstructor_of(variables | {stage: jax.tree.unflatten(tree, leaves)})
            with pytest.raises(UserError, match=f"the model's CT {REFUSED}"):
                bad(films, (0, 90), steps=2)
    with pytest.raises(UserError, match=f"the model's CT {REFUSED}"):
        bad.samples(films, (0, 90), sample_keys(0, 1), steps=2)


def test_an_evaluation_names_method_and_case():
    def predict(variables, views, key):
        return Prediction(jnp.zeros((len(views), 16, 16, 16, 1)).at[1, 2, 3, 4].set(jnp.nan))

    config, source = get_config(), ArraySource({"ct": np.zeros((2, 16, 16, 16, 1), np.float32)})
    method = Method("some method", (), predict)
    found = measure([method], {}, build_dvg(config), source, build_procedure(config), films=lambda cases: cases.truth)
    with pytest.raises(UserError, match=f"some method, case 1, {REFUSED}"):
        next(found)


def test_no_table_leaves_a_case_out(tmp_path):
    rows = {"A": [{"case": i, "psnr": value, "mae_hu_bone": np.nan} for i, value in enumerate((30.0, np.nan))]}
    with pytest.raises(UserError, match="psnr of A, case 1, is nan; allowed: finite numbers"):
        write_table(rows, tmp_path / "volumes", "title")
    assert not list(tmp_path.iterdir())
    assert whole("", rows["A"][0]) is rows["A"][0]  # a truth may lack a tissue


def test_a_calibration_of_nan_is_refused():
    ct = np.zeros((4, 4, 4))
    with pytest.raises(UserError, match=REFUSED):
        Errors(ct.astype(int), False).add(ct + np.nan, ct, None)


def test_nothing_that_is_not_finite_is_written(tmp_path):
    request = Request(tmp_path / "run", (a_film(tmp_path / "ap.png"),), tmp_path / "out" / "ct.nii.gz")
    before, outcome = contents(tmp_path), an_outcome(request)
    samples = outcome.samples.copy()
    samples[0, 1, 2, 3] = np.nan
    calibration = Calibration(
        [np.full((n, 4), np.nan) for n in (1, 5, 10)], {"cases": LEAST, "kind": "phantoms", "samples": 1, "way": {}}
    )
    for bad in (replace(outcome, samples=samples), replace(outcome, calibration=calibration)):
        with pytest.raises(UserError, match="not finite"):
            outputs.write(request, bad)
        assert contents(tmp_path) == before
