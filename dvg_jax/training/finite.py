"""Find learned arrays that hold a NaN or an infinity: on the devices where they are, or on the host."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.errors import UserError
from dvg_jax.files.sealed import listed
from dvg_jax.fingerprint import path_of


def check_finite(variables: Any, what: str) -> None:
    """Refuse variables that are not finite; ``what`` begins the message.

    Raises:
      UserError: names them.
    """
    if found := not_finite(variables):
        verb = "is" if len(found) == 1 else "are"
        raise UserError(f"{what}: {listed(found)} {verb} not finite; allowed: finite numbers")


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


@jax.jit
def _finite(x: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(x))
