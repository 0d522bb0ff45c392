"""Bound the numbers that fields of a config and flags of commands share. Does not import JAX.

A larger value can only exhaust memory, overflow, or never end. Together several large values may still need more than
a machine has, which ends in one line too (``cli/entry.py``).
"""

from dvg_jax.cli.rules import Number

SEED = Number(0, 2**32 - 1, whole=True)
"""A larger seed would be cut to 32 bits, and give the numbers of a smaller one."""

SIDE = Number(1, 1024, whole=True)
"""It bounds the voxels of a cube along each edge: 2^30 in all, 4 GiB, as in the largest scan that is read."""

NUMBER = Number(1, 2**31 - 1, whole=True)
"""It bounds things that are counted and not held, such as steps and cases: 32 bits, signed, on the device."""

HELD = Number(1, 10_000, whole=True)
"""It bounds things that are held at once, or done for each case: cases of a batch, time steps, iterations."""

WIDTH = Number(1, 8192, whole=True)
"""It bounds channels of a layer, and groups and heads that divide them."""

DEPTH = Number(1, 256, whole=True)
"""It bounds layers of a network, one after another."""

PROCESSES = Number(1, 4096, whole=True)
"""It bounds processes on one machine, and those that train together."""

LENGTH_MM = Number(1, 10_000)
"""It bounds the edge of a cube in the patient: 10 m at most."""

WEIGHT = Number(0, 1e9)
"""It bounds weights, norms and ranges, so that their squares, summed, stay finite in 32 bits."""
