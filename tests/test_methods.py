"""Methods are predicted once and measured in every row; the linear estimate is the ridge regression it claims to be."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.config.build import build_dvg
from dvg_jax.consistency import Fit
from dvg_jax.data.sources import ArraySource
from dvg_jax.dvg import DVG, Estimates
from dvg_jax.evaluate.cases import build_procedure
from dvg_jax.evaluate.measure import measure
from dvg_jax.methods import build_method, with_refiner
from dvg_jax.methods.base import Method, Prediction
from dvg_jax.methods.linear import RIDGES, best_ridge, fit_linear, left_out_errors
from dvg_jax.methods.yardsticks import another_patient
from dvg_jax.stages.refine import init_rounds
from tests.tiny import get_config

SIZE, COUNT = 4, 19


@pytest.fixture(scope="module")
def chests():
    """Return more than a batch of small volumes that depend on three numbers each, and a little noise."""
    random = np.random.default_rng(0)
    numbers, basis = random.normal(size=(COUNT, 3)), random.normal(size=(3, SIZE**3))
    volumes = 0.5 + 0.05 * (numbers @ basis + 0.3 * random.normal(size=(COUNT, SIZE**3)))
    return volumes.reshape(COUNT, SIZE, SIZE, SIZE, 1).astype(np.float32)


def render(ct):
    """Return films (B, 2, h, w, 1): sums along two axes."""
    return jnp.stack([ct.sum(axis) for axis in (2, 3)], axis=1)


def regression(films, volumes, ridge):
    """Return weights and offset of the regression in its primal form: a weight for every pixel."""
    x, y = films - films.mean(0), volumes - volumes.mean(0)
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
    return weights, volumes.mean(0) - films.mean(0) @ weights


def flat(chests):
    films = np.asarray(render(jnp.asarray(chests)), np.float64).reshape(COUNT, -1)
    return films, chests.reshape(COUNT, -1).astype(np.float64)


def test_the_linear_estimate_is_the_regression_on_all_pixels(chests):
    films, volumes = flat(chests)
    x = films - films.mean(0)
    ridge = best_ridge(x @ x.T, volumes - volumes.mean(0))
    weights, offset = regression(films, volumes, ridge)
    shown = np.asarray(render(jnp.asarray(chests[:3] + 0.02)))
    expected = shown.reshape(3, -1) @ weights + offset
    assert np.abs(expected - volumes.mean(0)).max() > 0.1
    found = fit_linear(ArraySource({"ct": chests}), render).predict(shown)
    np.testing.assert_allclose(found.reshape(3, -1), np.clip(expected, 0, 1), atol=1e-5)


def test_the_ridge_is_the_best_for_cases_left_out(chests):
    films, volumes = flat(chests)
    x, y = films - films.mean(0), volumes - volumes.mean(0)
    ridges = RIDGES[::3] * np.trace(x @ x.T) / COUNT

    def refitted(ridge):
        errors = 0.0
        for i in range(COUNT):
            rest = np.arange(COUNT) != i
            weights, offset = regression(films[rest], volumes[rest], ridge)
            errors += np.sum((films[i] @ weights + offset - volumes[i]) ** 2)
        return errors

    expected = [refitted(ridge) for ridge in ridges]
    np.testing.assert_allclose(left_out_errors(x @ x.T, y, ridges), expected, rtol=1e-5)
    assert 0 < np.argmin(expected) < len(ridges) - 1
    best = left_out_errors(x @ x.T, y, np.array([best_ridge(x @ x.T, y)]))
    assert best <= min(expected) * (1 + 1e-5)


def test_one_training_ct_is_the_estimate(chests):
    fitted = fit_linear(ArraySource({"ct": chests[:1]}), render)
    np.testing.assert_allclose(fitted.predict(np.asarray(render(jnp.asarray(chests[1:3])))), chests[[0, 0]], atol=1e-6)


def test_another_patient_is_a_training_patient_drawn_by_the_key(chests):
    yardstick = another_patient(ArraySource({"ct": chests}), build_dvg(get_config()))
    views = jnp.zeros((COUNT, 2, SIZE, SIZE, 1))
    found, again, other = (yardstick.predict({}, views, jax.random.key(seed)).ct for seed in (0, 0, 1))
    drawn = [np.flatnonzero((chests == np.asarray(ct)).all(axis=(1, 2, 3, 4))) for ct in found]
    assert all(len(one) == 1 for one in drawn)
    assert len(np.unique(drawn)) > COUNT // 3
    np.testing.assert_array_equal(found, again)
    assert np.any(found != other)


def test_a_method_predicts_once_and_each_row_is_the_same_ct_made_to_agree():
    dvg, procedure = build_dvg(get_config()), build_procedure(get_config())
    truth = np.random.default_rng(0).random((2, *dvg.geometry.volume_shape, 1), np.float32)
    asked, guessed = [], jnp.asarray(truth[::-1])  # each other's CT

    def guess(variables, views, key):
        asked.append(len(views))
        return Prediction(guessed)

    methods = [
        Method("a", (), guess, agrees=("films",)),
        Method("the truth", (), lambda v, ct, k: Prediction(ct), True),
    ]
    other = replace(dvg, fit=Fit(strength=9.0))  # the procedure's counts
    (batch,) = measure(methods, {}, other, ArraySource({"ct": truth}), procedure)
    assert asked == [2]
    assert list(batch.predictions) == list(batch.volumes) == ["a", "a + consistency", "the truth"]
    expected = replace(dvg, consistency="films").agree(
        {}, Estimates(guessed), dvg.render(jnp.asarray(truth), dvg.angles), dvg.angles
    )
    np.testing.assert_allclose(batch.predictions["a + consistency"].ct, expected, atol=1e-5)
    assert np.abs(expected - guessed).max() > 0.01
    assert batch.seconds["a + consistency"] > batch.seconds["a"]
    assert batch.volumes["a + consistency"][0]["psnr"] > batch.volumes["a"][0]["psnr"]


def test_dvg_net_is_applied_once_for_a_result_and_for_its_row_after_the_refiner(trained, monkeypatch):
    config = get_config()
    model = load_reconstructor(trained)
    dvg = replace(model.dvg, consistency="refine")
    truth = np.random.default_rng(0).random((2, *dvg.geometry.volume_shape, 1), np.float32)
    films = dvg.render(jnp.asarray(truth), dvg.angles)
    params = init_rounds(dvg, jax.random.key(0), truth, dvg.angles)
    variables = model.variables | {"refine": {"params": params}}
    applied, new_view = [], DVG._new_view
    monkeypatch.setattr(DVG, "_new_view", lambda self, *given: applied.append(1) or new_view(self, *given))
    method = with_refiner(build_method("dvg_diffusion", config, dvg))
    procedure = replace(build_procedure(config), cases=2, batch_size=2)
    (batch,) = measure([method], variables, dvg, ArraySource({"ct": truth}), procedure)
    assert applied == [1]
    expected = dvg.reconstruct(variables, films, dvg.angles, batch.cases.key)
    assert applied == [1, 1]
    np.testing.assert_allclose(batch.predictions["DVG-Diffusion + refiner"].ct, expected, atol=1e-5)
    assert np.abs(batch.predictions["DVG-Diffusion + consistency"].ct - expected).max() > 1e-3
