"""Keep NaN and infinity from passing for results: NaN becomes 0 HU in a file, and infinity the end of a range."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike

from dvg_jax.errors import UserError

Values = TypeVar("Values")


def finite(what: str, values: Values) -> Values:
    """Return values as they are: one array or a tree of arrays, of which each is reduced on its device.

    Args:
      what: their name in the message.
      values: numbers of any shape.

    Raises:
      UserError: one of them is NaN or infinite.
    """
    if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)):
        raise UserError(f"{what} has values that are not finite; allowed: numbers, as of a model that is not damaged")
    return values


def clipped(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Clip finite values; infinity becomes NaN, which :func:`finite` finds later."""
    return jnp.where(jnp.isfinite(x), jnp.clip(x, low, high), jnp.nan)
