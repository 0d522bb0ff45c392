"""Quantise vectors with a codebook that follows the data by moving averages (van den Oord et al. 2017, appendix A).

A codebook is a dict: ``embeddings`` (K, c), ``N`` (K,) the averaged use of each code and ``z_avg`` (K, c) the averaged
sum of the rows assigned to it. All functions are pure. Under ``jit`` with the batch split over devices, the counts and
sums are those of the whole batch.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from dvg_jax.networks.platforms import by_platform
from dvg_jax.shapes import Key

Codebook = dict[str, Array]
Rows = Float[Array, "n c"]

ROWS_AT_ONCE = 2048
"""The products of so many rows of a case with all codes exist at a time; all 32768 x 16384 of them never do."""

FEW_CHANNELS = 16
"""Up to so many channels of a latent, a GPU finds distances faster by differences than by products that it stores."""

DECAY = 0.99
EPSILON = 1e-7
NOISE = 0.01


def nearest(embeddings: Float[Array, "K c"], rows: Float[Array, "*B n c"]) -> Int[Array, "*B n"]:
    """Return the nearest code of each row by squared distance in float32; the first of equals.

    Cases stay on an axis of their own. If they are split over devices, each device looks up the rows of its cases.
    """
    elsewhere = _nearest_directly if rows.shape[-1] <= FEW_CHANNELS else _nearest_by_products
    arrays = embeddings.astype(jnp.float32), rows.astype(jnp.float32)
    return by_platform(*arrays, cpu=_nearest_by_products, default=elsewhere)


def _nearest_directly(embeddings: Float[Array, "K c"], rows: Float[Array, "*B n c"]) -> Int[Array, "*B n"]:
    """Sum the squared differences of the few channels while looking for the least: no distance is ever stored."""
    channels = range(embeddings.shape[1])
    distance = sum(jnp.square(rows[..., i, None] - embeddings[:, i]) for i in channels)
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def _nearest_by_products(embeddings: Float[Array, "K c"], rows: Float[Array, "*B n c"]) -> Int[Array, "*B n"]:
    norms = jnp.sum(embeddings**2, axis=1)

    def block(rows: Float[Array, "*B n c"]) -> Int[Array, "*B n"]:
        products = jnp.dot(rows, embeddings.T, precision=jax.lax.Precision.HIGHEST)
        distance = jnp.sum(rows**2, axis=-1, keepdims=True) - 2 * products + norms
        return jnp.argmin(distance, axis=-1).astype(jnp.int32)

    *cases, n, c = rows.shape
    if n <= ROWS_AT_ONCE:
        return block(rows)
    padded = jnp.pad(rows, (*((0, 0) for _ in cases), (0, -n % ROWS_AT_ONCE), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(*cases, -1, ROWS_AT_ONCE, c), -3, 0)
    return jnp.moveaxis(jax.lax.map(block, blocks), 0, -2).reshape(*cases, -1)[..., :n]


def perplexity(indices: Int[Array, "n"], n_codes: int) -> Array:
    """Return the number of codes in even use: exp of the entropy of their frequencies."""
    p = jnp.zeros(n_codes).at[indices].add(1.0) / indices.size
    return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10)))


def candidates(key: Key, rows: Rows, n_codes: int) -> Float[Array, "K c"]:
    """Return ``n_codes`` rows in random order; with fewer rows than codes, rows are repeated with a little noise.

    Args:
      key: decides order and noise.
      rows: latents of the batch, (n, c).
      n_codes: K, the rows to return.
    """
    key_noise, key_order = jax.random.split(key)
    n, c = rows.shape
    if n < n_codes:
        rows = jnp.tile(rows, (-(-n_codes // n), 1))
        rows = rows + jax.random.normal(key_noise, rows.shape) * NOISE / jnp.sqrt(c)
    # Permute indices, not rows, so that only the selected rows cross devices.
    return rows[jax.random.permutation(key_order, len(rows))[:n_codes]]


def from_data(rows: Float[Array, "K c"]) -> Codebook:
    """Return a codebook whose codes are these rows, each used once."""
    rows = rows.astype(jnp.float32)
    # Two buffers: a training step donates them one by one.
    return {"embeddings": rows, "N": jnp.ones(len(rows)), "z_avg": jnp.copy(rows)}


def update(
    codebook: Codebook,
    rows: Rows,
    indices: Int[Array, "n"],
    restarts: Float[Array, "K c"] | None = None,
    restart_threshold: float = 1.0,
) -> Codebook:
    """Return the codebook after one batch.

    Args:
      codebook: before the batch.
      rows: latents of the batch, (n, c).
      indices: their codes before this update, (n,).
      restarts: where given, a code whose averaged use is under ``restart_threshold`` takes the row of its number
        from here. Its averages stay, so it moves again at the next update unless a row was assigned to it.
      restart_threshold: averaged use, in rows a batch.
    """
    rows = rows.astype(jnp.float32)
    n_codes = len(codebook["N"])
    counts = jnp.zeros(n_codes).at[indices].add(1.0)
    sums = jnp.zeros_like(codebook["z_avg"]).at[indices].add(rows)
    used = DECAY * codebook["N"] + (1 - DECAY) * counts
    z_avg = DECAY * codebook["z_avg"] + (1 - DECAY) * sums
    total = used.sum()
    weight = (used + EPSILON) / (total + n_codes * EPSILON) * total
    embeddings = z_avg / weight[:, None]
    if restarts is not None:
        embeddings = jnp.where(used[:, None] < restart_threshold, restarts, embeddings)
    return {"embeddings": embeddings, "N": used, "z_avg": z_avg}
