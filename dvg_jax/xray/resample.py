"""Interpolate films and volumes at given places."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Float

FINENESS = 1024
"""Places are rounded to such a part of a pixel or voxel."""


def interpolated(values: Float[Array, "..."], places: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
    """Interpolate linearly; beyond the edges the outermost values go on.

    Places are rounded, because XLA may compute them twice with other rounding: on a pixel's centre, where undisturbed
    films are sampled, that would be one pixel's index with the other's weight.

    Args:
      values: of any number of axes.
      places: an array of indices for each axis, which broadcast to one another.
    """
    rounded = [jnp.round(place * FINENESS) / FINENESS for place in jnp.broadcast_arrays(*places)]
    return map_coordinates(values, rounded, order=1, mode="nearest")
