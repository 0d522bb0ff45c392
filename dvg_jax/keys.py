"""Derive random streams from names, so that a stage or split added anywhere changes no other's numbers."""

import zlib

import jax

from dvg_jax.shapes import Key


def named(key: Key, name: str) -> Key:
    """Derive the stream of ``key`` for ``name``, by a digest of the name."""
    return jax.random.fold_in(key, digest(name))


def digest(name: str) -> int:
    """Reduce a name to 32 bits, the same in every process and version."""
    return zlib.crc32(name.encode())
