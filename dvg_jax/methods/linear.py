"""Regress CTs linearly on their X-rays, by ridge regression in its dual form: one weight for each training CT.

    CT = mean + sum_i w_i (CT_i - mean),    w = (K + ridge I)^-1 k

K holds the inner products of the training films, each less their mean, and k those with the films at hand. The ridge is
the one with the least leave-one-out error on the training set, which has a closed form. Training CTs are read again for
every prediction, so that no more than a batch of them is in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.shapes import Views, Volumes

MOST = 1024
"""At most so many training CTs are used, from the front of the source."""

RIDGES = np.logspace(-6, 1, 15)
"""These ridges are tried, in units of the mean square of the films less their mean."""

_BATCH, _GRID = 16, 16


@dataclass(frozen=True)
class LinearEstimate:
    """Hold a fitted regression.

    Attributes:
      source: the training CTs.
      mean: of them.
      film_mean: mean of their films, as one vector.
      films: their films less the mean.
      inverse: of ``K + ridge I``.
    """

    source: Source
    mean: Float[np.ndarray, "D H W 1"]
    film_mean: Float[np.ndarray, "P"]
    films: Float[np.ndarray, "N P"]
    inverse: Float[np.ndarray, "N N"]

    def predict(self, views: Views) -> Float[np.ndarray, "B D H W 1"]:
        """Return the CTs of X-rays (B, V, h, w, 1), clipped to [0, 1]."""
        weights = (np.asarray(views).reshape(len(views), -1) - self.film_mean) @ self.films.T @ self.inverse
        total, first = (1 - weights.sum(axis=1))[:, None, None, None, None] * self.mean, 0
        for batch in _batches(self.source):
            ct = batch["ct"][batch["mask"] > 0]
            total += np.tensordot(weights[:, first : first + len(ct)], ct, axes=1)
            first += len(ct)
        return np.clip(total, 0, 1).astype(np.float32)


def fit_linear(source: Source, render: Callable[[Volumes], Views]) -> LinearEstimate:
    """Fit the regression to the first ``MOST`` CTs of a source.

    The leave-one-out error is that of a grid of ``_GRID``^3 voxels, which fit into memory for all CTs.
    """
    total, films, voxels = 0.0, [], []
    for batch in _batches(source):
        real = batch["mask"] > 0
        ct = batch["ct"][real]
        films.append(np.asarray(render(jnp.asarray(batch["ct"])), np.float64).reshape(len(real), -1)[real])
        total = total + ct.sum(axis=0, dtype=np.float64)
        steps = (slice(None, None, max(n // _GRID, 1)) for n in ct.shape[1:4])
        voxels.append(ct[(slice(None), *steps)].reshape(len(ct), -1).astype(np.float64))
    x, y = np.concatenate(films), np.concatenate(voxels)
    film_mean = x.mean(axis=0)
    x -= film_mean
    kernel = x @ x.T
    ridge = best_ridge(kernel, y - y.mean(axis=0))
    inverse = np.linalg.inv(kernel + ridge * np.eye(len(x)))
    return LinearEstimate(source, np.asarray(total / len(x)), film_mean, x, inverse)


def best_ridge(kernel: Float[np.ndarray, "N N"], values: Float[np.ndarray, "N Q"]) -> float:
    """Return the ridge of ``RIDGES`` with the least leave-one-out error.

    Args:
      kernel: inner products of the films less their mean.
      values: of the CTs, less their mean.
    """
    # A training set of one CT has a kernel of 0: any ridge gives that CT.
    ridges = RIDGES * (np.trace(kernel) / len(kernel) or 1.0)
    return float(ridges[np.argmin(left_out_errors(kernel, values, ridges))])


def left_out_errors(
    kernel: Float[np.ndarray, "N N"], values: Float[np.ndarray, "N Q"], ridges: Float[np.ndarray, "R"]
) -> Float[np.ndarray, "R"]:
    """Return the sum of squared errors at cases that the regression was not fitted to, for each ridge.

    The regression maps the values Y to H Y. Fitted without case i it errs there by (Y - H Y)_i / (1 - H_ii).

    Args:
      kernel: inner products of the films less their mean.
      values: of the CTs, less their mean.
      ridges: above 0.
    """
    eigenvalues, vectors = np.linalg.eigh(kernel)
    rotated = vectors.T @ values
    products = rotated @ rotated.T
    errors = []
    for ridge in ridges:
        left = ridge / (np.maximum(eigenvalues, 0) + ridge)  # what of each component the regression leaves
        shares = vectors * left
        squares = np.sum(shares @ products * shares, axis=1)
        free = np.sum(vectors * shares, axis=1) - 1 / len(kernel)  # 1 - H_ii, of which the mean takes 1 / N
        errors.append(np.sum(squares / np.maximum(free, 1e-12) ** 2))
    return np.array(errors)


def _batches(source: Source) -> Iterator[dict[str, Any]]:
    return islice(evaluation_batches(source, _BATCH), MOST // _BATCH)
