"""Learning rates and weight decay by hand."""

import jax.numpy as jnp
import numpy as np
import optax

from dvg_jax.config import training
from dvg_jax.training.optim import Training


def made(**fields):
    return Training(**training(steps=100, batch_size=1, learning_rate=2.0, **fields))


def rates(steps, **fields):
    rate = made(**fields).rate()
    return [float(rate(step)) for step in steps]


def test_linear_is_constant_and_then_falls_to_zero():
    np.testing.assert_allclose(rates([0, 49, 50, 75, 100], schedule="linear"), [2, 2, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(
        rates([5, 10, 80, 90, 100], schedule="linear", decay_steps=20, end_rate=0.5, warmup_steps=10),
        [1.1, 2, 2, 1.5, 1],
        atol=1e-6,
    )


def test_staircase_drops_to_a_tenth():
    expected = [2, 2, 0.2, 0.02, 0.002, 0.0002]
    np.testing.assert_allclose(rates([0, 19, 20, 40, 60, 99], schedule="staircase"), expected, rtol=1e-5)
    np.testing.assert_allclose(rates([49, 50], schedule="staircase", decay_steps=50), [2, 0.2], rtol=1e-5)


def test_weight_decay_is_part_of_the_gradient():
    params, grads = {"model": jnp.array([3.0, -2.0])}, {"model": jnp.array([0.5, 0.1])}
    found, expected = (
        recipe.optimizer(("model",)).update(g, recipe.optimizer(("model",)).init(params), params)[0]
        for recipe, g in (
            (made(weight_decay=0.1).recipe, grads),
            (made().recipe, {"model": grads["model"] + 0.1 * params["model"]}),
        )
    )
    np.testing.assert_allclose(found["model"], expected["model"], rtol=1e-6)


def test_without_weight_decay_states_are_what_they_were():
    """Checkpoints written before there was weight decay are read."""
    params = {"model": jnp.zeros(2)}
    adam = optax.chain(optax.identity(), optax.scale_by_adam(0.9, 0.999))
    before = optax.partition({"model": adam}, {"model": "model"}).init(params)
    assert str(made().recipe.optimizer(("model",)).init(params)) == str(before)


def test_a_recipe_does_not_depend_on_the_length_or_the_rate():
    """Two stages that differ in these alone share a compiled step."""
    assert made(warmup_steps=3, cache=True).recipe == made().recipe != made(beta1=0.5).recipe
