"""The EMA codebook equals the published one, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks import codebook
from dvg_jax.networks.vqgan3d import commitment
from tests.paths import GOLDEN, GOLDEN_SMALL, needs_shared

FOLDERS = [GOLDEN_SMALL, pytest.param(GOLDEN, marks=needs_shared)]


@pytest.fixture(scope="module", params=FOLDERS)
def golden(request):
    return np.load(request.param / "codebook_ema.npz")


def rows_of(z):
    return jnp.asarray(np.moveaxis(z, 1, -1).reshape(-1, z.shape[1]))


def book(golden, when):
    return {name: jnp.asarray(golden[f"{when}/{name}"]) for name in ("embeddings", "N", "z_avg")}


def assert_book(found, golden, when):
    for name, array in found.items():
        np.testing.assert_allclose(array, golden[f"{when}/{name}"], rtol=1e-5, atol=1e-6, err_msg=name)


def test_nearest_codes_perplexity_and_commitment(golden):
    rows, before = rows_of(golden["z"]), book(golden, "before")
    indices = codebook.nearest(before["embeddings"], rows)
    np.testing.assert_array_equal(indices, golden["encodings"].ravel())
    assert float(codebook.perplexity(indices, 64)) == pytest.approx(float(golden["perplexity"]), rel=1e-5)
    distance = commitment(rows, before["embeddings"][indices])
    assert 0.25 * float(distance) == pytest.approx(float(golden["commitment_loss"]), rel=1e-5)


def test_two_updates(golden):
    first = codebook.update(book(golden, "before"), rows_of(golden["z"]), jnp.asarray(golden["encodings"].ravel()))
    assert_book(first, golden, "after_norestart")
    second_rows = rows_of(golden["z2"])
    indices = codebook.nearest(first["embeddings"], second_rows)
    np.testing.assert_array_equal(indices, golden["encodings2"].ravel())
    assert_book(codebook.update(first, second_rows, indices), golden, "after2_norestart")


@needs_shared
def test_restart_of_dead_codes():
    golden = np.load(GOLDEN / "codebook_ema.npz")
    rows = rows_of(golden["z"])
    restarts = rows[jnp.asarray(golden["restart_randperm"])][:64]
    after = codebook.update(
        book(golden, "before"), rows, jnp.asarray(golden["encodings"].ravel()), restarts, float(golden["restart_thres"])
    )
    assert_book(after, golden, "after_restart")


@needs_shared
def test_first_call_takes_its_codes_from_the_data():
    golden = np.load(GOLDEN / "codebook_ema.npz")
    rows = rows_of(golden["z"])
    fresh = codebook.from_data(rows[jnp.asarray(golden["init_randperm"])][:64])
    indices = codebook.nearest(fresh["embeddings"], rows)
    np.testing.assert_array_equal(indices, golden["init_encodings"].ravel())
    assert_book(codebook.update(fresh, rows, indices), golden, "after_init")


def test_many_rows_are_searched_in_blocks():
    key_codes, key_rows = jax.random.split(jax.random.key(0))
    table = jax.random.normal(key_codes, (32, 4))
    rows = jax.random.normal(key_rows, (codebook.ROWS_AT_ONCE + 5, 4))
    plain = np.argmin(((np.asarray(rows)[:, None] - np.asarray(table)) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(codebook.nearest(table, rows), plain)


def test_candidates_are_rows_and_noisy_copies_only_where_rows_are_few():
    rows = jax.random.normal(jax.random.key(0), (10, 4))
    few = np.asarray(codebook.candidates(jax.random.key(1), rows, 6))
    distances = np.abs(few[:, None] - np.asarray(rows)).max(-1)
    assert (distances.min(1) == 0).all()
    assert len(set(distances.argmin(1))) == 6
    many = np.asarray(codebook.candidates(jax.random.key(1), rows, 25))
    assert many.shape == (25, 4)
    assert len(np.unique(many, axis=0)) == 25
