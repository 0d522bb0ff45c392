"""Predict CTs without a network: what a method is worth is what it adds to these."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.methods.base import ANOTHER, LINEAR, MEAN, Method, Prediction
from dvg_jax.methods.linear import MOST, fit_linear
from dvg_jax.shapes import Key, VariablesByStage, Views


def mean_volume(source: Source, dvg: DVG) -> Method:
    """Predict the mean of all training CTs."""
    total, count = 0.0, 0
    for batch in evaluation_batches(source, 16):
        ct = np.asarray(batch["ct"])[batch["mask"] > 0]
        total, count = total + ct.sum(axis=0, dtype=np.float64), count + len(ct)
    mean = jnp.asarray(total / count, jnp.float32)

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        return Prediction(jnp.broadcast_to(mean, (len(views), *mean.shape)))

    return Method(MEAN, (), predict, agrees=("films",))


def another_patient(source: Source, dvg: DVG) -> Method:
    """Predict the CT of a training patient, drawn for each case by the key: a true chest, but the wrong one."""

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        drawn = jax.random.randint(key, (len(views),), 0, min(len(source), MOST))
        return Prediction(jnp.stack([source[int(i)]["ct"] for i in drawn]))

    return Method(ANOTHER, (), predict, agrees=("films",))


def linear_estimate(source: Source, dvg: DVG) -> Method:
    """Predict by linear regression of the training CTs on their X-rays."""
    fitted = fit_linear(source, lambda ct: dvg.render(ct, dvg.angles))

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        return Prediction(jnp.asarray(fitted.predict(views)))

    return Method(LINEAR, (), predict, agrees=("films",))


YARDSTICKS: dict[str, Callable[[Source, DVG], Method]] = {
    MEAN: mean_volume,
    ANOTHER: another_patient,
    LINEAR: linear_estimate,
}
"""They map a title to the function that makes the yardstick of the training CTs, in the order of the tables."""
