"""Multiply a constant sparse matrix by dense rows, fast in both directions.

ELLPACK: every row is padded to the entry count of the longest row. The product is a few gathers of whole rows and
their sum, which every backend runs as one loop over vectors. JAX would transpose a gather to a scatter, several times
slower on a CPU and with atomic additions on a GPU. Here the gradient is a product of the same form with the transposed
matrix, given by ``jax.custom_vjp``, so derivatives are reverse-mode only.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from dvg_jax.shapes import Accepted

ENTRIES_AT_ONCE = 8
"""Entries of each row whose terms are summed in one pass over the result."""


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Hold ``shape`` and the entries by row and column, at most one for each place."""

    shape: tuple[int, int]
    row: Int[np.ndarray, "n"]
    column: Int[np.ndarray, "n"]
    value: Float[np.ndarray, "n"]

    @classmethod
    def summed(
        cls, shape: tuple[int, int], row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"], value: np.ndarray
    ) -> "SparseMatrix":
        """Build the matrix from entries of which several may share a place; these are summed.

        Args:
          shape: rows and columns.
          row: of each entry, (n,).
          column: of each entry, (n,).
          value: of each entry, (n,).
        """
        place, entry = np.unique(row.astype(np.int64) * shape[1] + column, return_inverse=True)
        # Without entries bincount counts in whole numbers.
        total = np.bincount(entry, value, len(place)).astype(np.float64)
        return cls(shape, *np.divmod(place, shape[1]), total)

    @cached_property
    def transposed(self) -> "SparseMatrix":
        """Return the matrix with rows and columns exchanged."""
        return SparseMatrix(self.shape[::-1], self.column, self.row, self.value)

    @cached_property
    def padded(self) -> tuple[Int[np.ndarray, "passes k rows"], Float[np.ndarray, "passes k rows"]]:
        """Return column and value of the k-th entry of each row in each pass; value 0 where a row has fewer."""
        order = np.argsort(self.row, kind="stable")
        row = self.row[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        passes = -(-(int(place.max(initial=0)) + 1) // ENTRIES_AT_ONCE)
        index = np.zeros((passes * ENTRIES_AT_ONCE, self.shape[0]), np.int32)
        value = np.zeros(index.shape, np.float32)
        index[place, row], value[place, row] = self.column[order], self.value[order]
        parts = (passes, ENTRIES_AT_ONCE, self.shape[0])
        return index.reshape(parts), value.reshape(parts)

    def __matmul__(self, rows: Float[Accepted, "columns m"]) -> Float[Array, "rows m"]:
        """Return the product, float32. It can be batched, and differentiated in reverse any number of times."""
        return _product(self, rows.astype(jnp.float32))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(matrix: SparseMatrix, rows: Float[Accepted, "columns m"]) -> Float[Array, "rows m"]:
    def add(total: Array, entries: tuple[Array, Array]) -> tuple[Array, None]:
        for index, value in zip(*entries, strict=True):
            total += value[:, None] * rows.at[index].get(mode="promise_in_bounds")
        return total, None

    rows = jnp.asarray(rows)  # outside of jit, the primal of a gradient may still be a NumPy array
    entries = jax.tree.map(jnp.asarray, matrix.padded)
    return jax.lax.scan(add, jnp.zeros((matrix.shape[0], rows.shape[1]), rows.dtype), entries)[0]


def _forward(matrix: SparseMatrix, rows: Array) -> tuple[Array, None]:
    return _product(matrix, rows), None


def _backward(matrix: SparseMatrix, _: None, cotangent: Float[Accepted, "rows m"]) -> tuple[Array]:
    return (matrix.transposed @ cotangent,)


_product.defvjp(_forward, _backward)
