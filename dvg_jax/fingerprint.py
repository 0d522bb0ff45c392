"""Compute short digests that identify learned weights, files, settings and this program."""

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
"""Hexadecimal digits that identifiers keep of a SHA-256: two are equal by chance once in 10^19."""


def fingerprint(variables: Variables) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of every learned number and its name."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:_DIGITS]


def of_variables(variables: Variables) -> dict[str, str]:
    """Return 16 digits for each learned array, by its path in the tree: for its type, shape and numbers."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(variables), strict=True) if variables else ((), ())
    with ThreadPoolExecutor() as pool:
        return dict(zip(map(path_of, paths), pool.map(_of_array, leaves), strict=True))


def path_of(keys: jax.tree_util.KeyPath) -> str:
    """Return an array's place in a tree as a path, such as ``params/conv/kernel``."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _of_array(array: Any) -> str:
    array = np.asarray(array)
    found = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:_DIGITS]


def of_settings(settings: Any) -> str:
    """Return 16 digits for settings that JSON can represent; the order of names does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def of_file(path: Path) -> str:
    """Return the whole SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """Return 16 digits for the bytes of files, in this order; their names do not matter."""
    with ThreadPoolExecutor() as pool:
        return of_settings(list(pool.map(of_file, paths)))


@cache
def of_program() -> str:
    """Return 16 digits for everything that affects rounding: this package's code, JAX, device, matrix precision."""
    folder = Path(__file__).parent
    code = of_files(sorted(folder.rglob("*.py")))
    device = jax.devices()[0]
    precision = str(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
    return of_settings([code, jax.__version__, jaxlib.__version__, device.platform, device.device_kind, precision])
