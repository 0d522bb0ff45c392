"""A sparse matrix known beforehand, times dense rows, fast in both directions.

Every row of the product sums as many rows of the operand as the fullest row of the matrix has entries (the ELLPACK
form): a few gathers of whole rows and their sum, which every backend runs as one loop over vectors. JAX would transpose
a gather to a scatter, several times slower on a CPU and by atomic additions on a GPU; here the transpose is a product
of the same form with the transposed matrix.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float, Int

ENTRIES_AT_ONCE = 8
"""Entries of each row whose terms are summed in one pass over the result."""


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """``shape`` and the entries by row and column, each place once."""

    shape: tuple[int, int]
    row: Int[np.ndarray, "n"]
    column: Int[np.ndarray, "n"]
    value: Float[np.ndarray, "n"]

    @classmethod
    def summed(
        cls, shape: tuple[int, int], row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"], value: np.ndarray
    ) -> "SparseMatrix":
        """From entries that may name a place several times."""
        place, entry = np.unique(row.astype(np.int64) * shape[1] + column, return_inverse=True)
        return cls(shape, *np.divmod(place, shape[1]), np.bincount(entry, value, len(place)))

    @cached_property
    def transposed(self) -> "SparseMatrix":
        """With rows and columns exchanged."""
        return SparseMatrix(self.shape[::-1], self.column, self.row, self.value)

    @cached_property
    def padded(self) -> tuple[Int[np.ndarray, "passes k rows"], Float[np.ndarray, "passes k rows"]]:
        """Column and value of the k-th entry of each row in each pass; value 0 where a row has fewer."""
        order = np.argsort(self.row, kind="stable")
        row = self.row[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        passes = -(-(int(place.max(initial=0)) + 1) // ENTRIES_AT_ONCE)
        index = np.zeros((passes * ENTRIES_AT_ONCE, self.shape[0]), np.int32)
        value = np.zeros(index.shape, np.float32)
        index[place, row], value[place, row] = self.column[order], self.value[order]
        parts = (passes, ENTRIES_AT_ONCE, self.shape[0])
        return index.reshape(parts), value.reshape(parts)

    def __matmul__(self, rows: Float[Array, "columns m"]) -> Float[Array, "rows m"]:
        """The product, float32; linear, so it can be differentiated either way, transposed and batched."""
        return _product.bind(rows.astype(jnp.float32), matrix=self)


def _sum_of_rows(rows: Array, *, matrix: SparseMatrix) -> Array:
    def add(total: Array, entries: tuple[Array, Array]) -> tuple[Array, None]:
        for index, value in zip(*entries, strict=True):
            total += value[:, None] * rows.at[index].get(mode="promise_in_bounds")
        return total, None

    entries = jax.tree.map(jnp.asarray, matrix.padded)
    return jax.lax.scan(add, jnp.zeros((matrix.shape[0], rows.shape[1]), rows.dtype), entries)[0]


def _batched(operands: tuple[Array], axes: tuple[int], *, matrix: SparseMatrix) -> tuple[Array, int]:
    # Beside the columns and before them: a batch that is split over devices stays so.
    rows = jnp.moveaxis(operands[0], axes[0], 1)
    product = matrix @ rows.reshape(len(rows), -1)
    return product.reshape(len(product), *rows.shape[1:]), 1


_product = Primitive("sparse_times_dense")
_product.def_impl(partial(jax.jit, static_argnames="matrix")(_sum_of_rows))
_product.def_abstract_eval(lambda rows, *, matrix: jax.core.ShapedArray((matrix.shape[0], rows.shape[1]), rows.dtype))
ad.deflinear2(_product, lambda cotangent, rows, *, matrix: [matrix.transposed @ cotangent])
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_sum_of_rows, multiple_results=False))
