"""Keep NaN and infinity from passing for results: NaN becomes 0 HU in a file, and infinity the end of a range."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from dvg_jax.errors import UserError, listed
from dvg_jax.fingerprint import path_of

Values = TypeVar("Values")


def finite(what: str, values: Values) -> Values:
    """Return values as they are: one array or a tree of arrays, as results and learned variables are.

    Args:
      what: their name in the message.
      values: numbers of any shape, on devices or on the host.

    Raises:
      UserError: one of them is NaN or infinite; of a dict the message names the arrays.
    """
    if found := not_finite(values):
        where = f" in {listed(found)}" if isinstance(values, dict) else ""
        raise UserError(f"{what} has values that are not finite{where}; allowed: numbers")
    return values


def not_finite(tree: Any) -> list[str]:
    """Return the paths of arrays that hold a NaN or an infinity.

    Each array on devices is reduced there to one truth value, which is the same for all processes that share it; all
    must call it. Arrays of one shape share a compiled program.
    """
    named = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    with ThreadPoolExecutor() as pool:
        flags = [
            _finite(leaf) if isinstance(leaf, jax.Array) else pool.submit(lambda x: np.isfinite(x).all(), leaf)
            for _, leaf in named
        ]
    finite = jax.device_get([flag if isinstance(flag, jax.Array) else flag.result() for flag in flags])
    return [path_of(path) for (path, _), fine in zip(named, finite, strict=True) if not fine]


def clipped(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Clip finite values; infinity becomes NaN, which :func:`finite` finds later."""
    return jnp.where(jnp.isfinite(x), jnp.clip(x, low, high), jnp.nan)


@jax.jit
def _finite(x: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(x))
