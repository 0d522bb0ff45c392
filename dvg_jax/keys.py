"""Random streams by name: what is added beside a thing, before or after it, changes nothing that it draws."""

import zlib

import jax

from dvg_jax.shapes import Key


def named(key: Key, name: str) -> Key:
    """The stream of ``key`` that belongs to ``name``, by a digest of it."""
    return jax.random.fold_in(key, digest(name))


def digest(name: str) -> int:
    """32 bits of a name, the same in every process and version."""
    return zlib.crc32(name.encode())
