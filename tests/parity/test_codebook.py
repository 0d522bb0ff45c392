"""The EMA codebook: what one training call gives, and its state after each update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks import codebook
from dvg_jax.networks.vqgan3d import commitment, straight_through
from dvg_jax.stages.adversary import Weights
from tests.parity.errors import relative
from tests.parity.golden import EXACT, FOLDERS, TABLES, load, under
from tests.paths import GOLDEN, needs_shared

FILE = "codebook_ema.npz"
COMMITMENT_WEIGHT = 3.0
"""Of the commitment in the golden gradient."""


def rows_of(z):
    """(1, c, D, H, W) -> (D H W, c)."""
    return jnp.asarray(np.moveaxis(z, 1, -1).reshape(-1, z.shape[1]))


def book(golden, when):
    return {name: jnp.asarray(array) for name, array in under(golden, when).items()}


class Book:
    """Reports against one file."""

    def __init__(self, report, folder):
        self.file, self.golden = load(folder, FILE)
        self.report = functools.partial(report, file=self.file)
        self.rows = rows_of(self.golden["z"])
        self.indices = jnp.asarray(self.golden["encodings"].ravel())

    def compare(self, name, array):
        published = self.golden[name]
        tolerance = EXACT if published.dtype.kind == "i" else TABLES
        self.report(name=name, error=relative(array, published), tolerance=tolerance)

    def compare_state(self, when, state):
        for name, array in state.items():
            self.compare(f"{when}/{name}", array)


@pytest.mark.parametrize("folder", FOLDERS)
def test_codes_losses_and_gradient(folder, report):
    golden = Book(report, folder)
    table, shape = book(golden.golden, "before")["embeddings"], golden.golden["encodings"].shape
    upstream = rows_of(golden.golden["upstream_grad_on_embeddings"])

    @jax.jit
    def call(rows):
        indices = codebook.nearest(table, rows)
        embeddings = straight_through(rows, table[indices])
        distance = Weights().commitment * commitment(rows, table[indices])
        return jnp.sum(upstream * embeddings) + COMMITMENT_WEIGHT * distance, (indices, embeddings, distance)

    (_, (indices, embeddings, distance)), gradient = jax.value_and_grad(call, has_aux=True)(golden.rows)
    golden.compare("encodings", indices.reshape(shape))
    golden.compare("commitment_loss", distance)
    golden.compare("perplexity", codebook.perplexity(indices, len(table)))
    channels = golden.golden["z"].shape
    for name, rows in (("embeddings_st", embeddings), ("grad_z_of_sum_g_emb_plus_3_commit", gradient)):
        golden.compare(name, rows.T.reshape(channels))


@pytest.mark.parametrize("folder", FOLDERS)
def test_two_updates(folder, report):
    golden = Book(report, folder)
    first = codebook.update(book(golden.golden, "before"), golden.rows, golden.indices)
    golden.compare_state("after_norestart", first)
    rows = rows_of(golden.golden["z2"])
    indices = codebook.nearest(first["embeddings"], rows)
    golden.compare("encodings2", indices.reshape(golden.golden["encodings2"].shape))
    golden.compare_state("after2_norestart", codebook.update(first, rows, indices))


@needs_shared
def test_restart_of_dead_codes(report):
    golden = Book(report, GOLDEN)
    before = book(golden.golden, "before")
    restarts = golden.rows[golden.golden["restart_randperm"]][: len(before["N"])]
    threshold = float(golden.golden["restart_thres"])
    golden.compare_state("after_restart", codebook.update(before, golden.rows, golden.indices, restarts, threshold))


@needs_shared
def test_first_call_takes_its_codes_from_the_data(report):
    golden = Book(report, GOLDEN)
    fresh = codebook.from_data(golden.rows[golden.golden["init_randperm"]])
    indices = codebook.nearest(fresh["embeddings"], golden.rows)
    golden.compare("init_encodings", indices.reshape(golden.golden["init_encodings"].shape))
    golden.compare("init_perplexity", codebook.perplexity(indices, len(fresh["N"])))
    golden.compare_state("after_init", codebook.update(fresh, golden.rows, indices))
