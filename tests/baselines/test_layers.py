"""Shared pieces of the comparison methods, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.baselines.layers import scaled, upsample_linear, upsample_nearest


def test_linear_upsampling_holds_the_ends_and_is_exact_on_ramps():
    x = jnp.arange(4.0).reshape(1, 4, 1) * jnp.ones((1, 4, 1))
    np.testing.assert_allclose(upsample_linear(x)[0, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2)), jnp.float32)
    expected = jax.image.resize(image, (2, 6, 8, 10, 2), "linear")
    np.testing.assert_allclose(upsample_linear(image), expected, atol=1e-6)


def test_nearest_upsampling():
    x = jnp.arange(6).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(upsample_nearest(x)[0, ..., 0], np.kron(x[0, ..., 0], np.ones((2, 2))))


def test_scaled_widths():
    assert [scaled(c, 1.0) for c in (8, 64, 4096)] == [8, 64, 4096]
    assert [scaled(64, w) for w in (0.25, 1 / 6, 1 / 64)] == [16, 8, 8]
    assert scaled(32, 0.2, 4) == 8
