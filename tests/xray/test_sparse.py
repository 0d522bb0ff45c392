"""Sparse times dense, against the matrix written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.xray.sparse import ENTRIES_AT_ONCE, SparseMatrix

# Rounding of sums of some dozen float32 products.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", params=[3, 5 * ENTRIES_AT_ONCE], ids=["few", "several passes"])
def pair(request):
    """A matrix with repeated places, empty rows and columns, and the same written out."""
    rng = np.random.default_rng(request.param)
    shape, n = (7, 40), 6 * request.param
    row, column, value = rng.integers(0, 6, n), rng.integers(1, 40, n), rng.random(n) - 0.3
    dense = np.zeros(shape)
    np.add.at(dense, (row, column), value)
    return SparseMatrix.summed(shape, row, column, value), dense


def test_product_and_its_transpose(pair):
    matrix, dense = pair
    rng = np.random.default_rng(1)
    x, y = (rng.random((n, 5)).astype(np.float32) for n in dense.shape[::-1])
    np.testing.assert_allclose(matrix @ jnp.asarray(x), dense @ x, **CLOSE)
    np.testing.assert_allclose(matrix.transposed @ jnp.asarray(y), dense.T @ y, **CLOSE)
    (pulled,) = jax.vjp(lambda x: matrix @ x, x)[1](y)
    np.testing.assert_allclose(pulled, dense.T @ y, **CLOSE)


def test_gradients(pair):
    matrix, dense = pair
    rng = np.random.default_rng(2)
    x, change = (jnp.asarray(rng.random((40, 2)), jnp.float32) for _ in range(2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum((matrix @ x) ** 2)))
    np.testing.assert_allclose(gradient(x), 2 * dense.T @ (dense @ x), **CLOSE)
    # Twice: the transpose's transpose is the product again.
    curved = jax.grad(lambda x: jnp.vdot(gradient(x), change))(x)
    np.testing.assert_allclose(curved, 2 * dense.T @ (dense @ change), **CLOSE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_batches_along_any_axis(pair, axis):
    matrix, dense = pair
    x = np.random.default_rng(3).random((3, 40, 4)).astype(np.float32)
    product = jax.jit(jax.vmap(lambda x: matrix @ x, in_axes=axis))(np.moveaxis(x, 0, axis))
    np.testing.assert_allclose(product, dense @ x, **CLOSE)


def test_no_entries_make_zeros():
    none = np.zeros(0, int)
    matrix = SparseMatrix.summed((2, 3), none, none, np.zeros(0))
    np.testing.assert_array_equal(matrix @ jnp.ones((3, 4)), np.zeros((2, 4)))
