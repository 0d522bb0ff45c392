"""Short digests that tell one thing from another: learned weights, files, settings, this program."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from dvg_jax.shapes import Variables

VERSION = version("dvg-jax")
"""The version of this package, by its metadata."""

_DIGITS = 16
"""Hexadecimal digits of a SHA-256 that are kept where it names a thing: two differ by chance once in 10^19."""


def fingerprint(variables: Variables) -> str:
    """16 hexadecimal digits of the SHA-256 of every learned number and its name."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:_DIGITS]


def of_settings(settings: Any) -> str:
    """16 digits of what JSON can hold; the order of names does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def of_file(path: Path) -> str:
    """The whole SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """16 digits of the bytes of files, in this order; their names do not matter."""
    with ThreadPoolExecutor() as pool:
        return of_settings(list(pool.map(of_file, paths)))


@cache
def of_program() -> str:
    """16 digits of all that may round differently: this package's code, JAX, the device, the matrix precision."""
    folder = Path(__file__).parent
    code = of_files(sorted(folder.rglob("*.py")))
    device = jax.devices()[0]
    precision = str(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    return of_settings([code, jax.__version__, jaxlib.__version__, device.platform, device.device_kind, precision])
