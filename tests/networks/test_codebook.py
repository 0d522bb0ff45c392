"""The codebook's search and its restarts by law; its numbers are compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks import codebook


def test_many_rows_are_searched_in_blocks():
    key_codes, key_rows = jax.random.split(jax.random.key(0))
    table = jax.random.normal(key_codes, (32, 4))
    rows = jax.random.normal(key_rows, (codebook.ROWS_AT_ONCE + 5, 4))
    plain = np.argmin(((np.asarray(rows)[:, None] - np.asarray(table)) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(codebook.nearest(table, rows), plain)
    np.testing.assert_array_equal(codebook._nearest_directly(table, rows[None])[0], plain)


@pytest.mark.parametrize(("channels", "products"), [(8, 0), (64, 1)])
def test_a_gpu_stores_no_distances_of_narrow_latents(channels, products):
    search = jax.jit(codebook.nearest).trace(jnp.zeros((32, channels)), jnp.zeros((1, 16, channels)))
    text = search.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.dot_general") == products


def test_candidates_are_rows_and_noisy_copies_only_where_rows_are_few():
    rows = jax.random.normal(jax.random.key(0), (10, 4))
    few = np.asarray(codebook.candidates(jax.random.key(1), rows, 6))
    distances = np.abs(few[:, None] - np.asarray(rows)).max(-1)
    assert (distances.min(1) == 0).all()
    assert len(set(distances.argmin(1))) == 6
    many = np.asarray(codebook.candidates(jax.random.key(1), rows, 25))
    assert many.shape == (25, 4)
    assert len(np.unique(many, axis=0)) == 25
