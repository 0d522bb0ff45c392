"""Reading golden files: which sets there are, and their layout in ours."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.paths import GOLDEN, GOLDEN_SMALL, needs_shared

FOLDERS = [pytest.param(GOLDEN_SMALL, id="small"), pytest.param(GOLDEN, id="full", marks=needs_shared)]
"""The set that the project carries, and the full one."""

TABLES = 1e-5
"""Closed formulas and averages: float32 against float64 or float32, with room for a sum taken in another order."""

NETWORKS = 1e-5
"""Float32 networks that add in another order: 2e-6 is usual. The least visible mistake found, a U-Net norm's epsilon of
1e-6 for 1e-5, costs 4e-5; that of the VQGAN 4e-4, an approximate GELU 2e-4.
"""

EXACT = 0.0
"""Indices and buckets."""

Arrays = dict[str, np.ndarray]


def load(folder: Path, file: str) -> tuple[str, Arrays]:
    """A file's name in the table and its arrays, channels first as stored."""
    with np.load(folder / file) as stored:
        return f"small/{file}" if folder == GOLDEN_SMALL else file, dict(stored)


def under(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays below ``prefix/``, named from there on."""
    start = f"{prefix}/"
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def channels_last(x: np.ndarray) -> jax.Array:
    """(B, C, ...) -> (B, ..., C)."""
    return jnp.asarray(np.moveaxis(x, 1, -1))


def channels_first(x: jax.Array) -> np.ndarray:
    """(B, ..., C) -> (B, C, ...)."""
    return np.moveaxis(x, -1, 1)
