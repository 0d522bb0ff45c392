"""A function of two forms is, in every program, the one form that is for its device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks.platforms import by_platform


def cubed(x, w, power=3):
    return (x**power) @ w


def cubed_by_products(x, w, power=3):
    y = x
    for _ in range(power - 1):
        y = y * x
    return jnp.tanh(y @ w) * 0 + y @ w


def chosen(x, w):
    return by_platform(x, w, cpu=cubed, default=cubed_by_products, power=3)


X, W = jax.random.normal(jax.random.key(0), (4, 3)), jax.random.normal(jax.random.key(1), (3, 2))


@pytest.mark.parametrize(("platform", "there"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_a_program_has_its_platforms_form_and_no_other(platform, there):
    """A conditional, even of one branch, keeps a CPU's compiler from joining sums over devices."""
    gradient = jax.jit(jax.grad(lambda x, w: chosen(x, w).sum(), argnums=(0, 1)))
    text = gradient.trace(X, W).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.tanh" in text) == there
    assert "stablehlo.case" not in text
    assert "stablehlo.if" not in text


def test_gradients_of_any_order_are_those_of_the_form():
    def loss(function):
        return lambda x: jnp.sum(jnp.sin(function(x, W)))

    def second(function):
        return jax.grad(lambda x: jnp.sum(jax.grad(loss(function))(x) ** 2))

    np.testing.assert_allclose(jax.jit(jax.grad(loss(chosen)))(X), jax.grad(loss(cubed))(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(second(chosen))(X), second(cubed)(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (0, 0), (1, 2)])
def test_it_maps_over_any_axes(axes):
    def stacked(x, axis):
        return x if axis is None else jnp.stack([x, 2 * x, 3 * x], axis)

    arrays = [stacked(x, axis) for x, axis in zip((X, W), axes, strict=True)]
    found, expected = (jax.vmap(function, axes)(*arrays) for function in (chosen, cubed))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_it_runs_outside_of_compiled_programs():
    np.testing.assert_allclose(chosen(X, W), cubed(X, W), rtol=1e-5)


def test_products_have_the_precision_that_holds_where_they_are_asked_for():
    def text(precision):
        with jax.default_matmul_precision(precision):
            traced = jax.jit(chosen).trace(X, W)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    assert "HIGHEST" in text("highest")
    assert "HIGHEST" not in text("default")
