"""Shared pieces of the comparison methods, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.baselines.layers import max_pool, scaled, upsample_linear, upsample_nearest


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_max_pool_and_its_gradient(dims, factor):
    x = np.random.default_rng(0).normal(size=(2, *(8,) * dims, 3)).astype(np.float32)
    cells = [n for _ in range(dims) for n in (8 // factor, factor)]
    expected = x.reshape(2, *cells, 3).max(axis=tuple(range(2, 2 * dims + 1, 2)))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), factor), expected)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, factor)))(jnp.asarray(x))
    for axis in range(1, dims + 1):
        expected = np.repeat(expected, factor, axis=axis)
    np.testing.assert_array_equal(gradient, x == expected)


def test_linear_upsampling_holds_the_ends_and_is_exact_on_ramps():
    x = jnp.arange(4.0).reshape(1, 4, 1) * jnp.ones((1, 4, 1))
    np.testing.assert_allclose(upsample_linear(x)[0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2)), jnp.float32)
    expected = jax.image.resize(image, (2, 6, 8, 10, 2), "linear")
    np.testing.assert_allclose(upsample_linear(image), expected, atol=1e-6)


def test_nearest_upsampling():
    x = np.arange(6).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(upsample_nearest(x)[0, ..., 0], np.kron(x[0, ..., 0], np.ones((2, 2))))


def test_scaled_widths():
    assert [scaled(c, 1.0) for c in (8, 64, 4096)] == [8, 64, 4096]
    assert [scaled(64, w) for w in (0.25, 1 / 6, 1 / 64)] == [16, 8, 8]
    assert scaled(32, 0.2, 4) == 8
