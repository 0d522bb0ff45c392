"""Split the batch over a mesh of devices; everything else is on each device or, if asked for, split too."""

import math
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dvg_jax.errors import UserError

SMALLEST_SPLIT = 2**14
"""Elements under which an array is not worth splitting: 64 KiB of float32."""


def data_mesh(batch_size: int, field: str) -> Mesh:
    """Return a mesh of as many devices as split the global batch evenly, along one axis, ``data``; report idle devices.

    Auto axes are asked for by name: explicit ones reject the U-Net's reshape of batch and depth into one axis.

    Raises:
      UserError: several processes whose devices the batch, named by ``field``, does not split over.
    """
    devices = jax.devices()
    count = math.gcd(batch_size, len(devices))
    if count < len(devices):
        if jax.process_count() > 1:
            raise UserError(f"{field} is {batch_size}; allowed: multiples of the {len(devices)} devices")
        print(f"{field} is {batch_size}: {count} of {len(devices)} devices used", file=sys.stderr)
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=devices[:count])


def even_mesh(rows: int) -> Mesh | None:
    """Return a mesh of this process's devices if ``rows`` cases split over them evenly; None where one does all."""
    devices = jax.local_devices()
    if len(devices) == 1 or rows % len(devices):
        return None
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that has the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows_split(mesh: Mesh) -> NamedSharding:
    """Return the sharding that has an equal share of the first axis on every device."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Join every process's host arrays to global arrays, split along the first axis."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows_split(mesh), x), batch)


def share_out(mesh: Mesh, rows: Any) -> Any:
    """Split host rows, which every process has, along the first axis where it divides; otherwise keep them whole."""
    return jnp.asarray(rows) if mesh.size == 1 or len(rows) % mesh.size else place(rows, rows_split(mesh))


def place(tree: Any, shardings: Any) -> Any:
    """Turn arrays that every process has whole into global arrays; ``shardings`` is one for all or a tree of them."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        # device_put would send every array to every process, to check that all have the same.
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings)


def split_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """Return the longest axis of a parameter that divides by ``devices``; None where it is small or none does."""
    axes = [axis for axis, n in enumerate(shape) if n % devices == 0]
    if devices == 1 or math.prod(shape) < SMALLEST_SPLIT or not axes:
        return None
    return max(axes, key=lambda axis: shape[axis])


@dataclass(frozen=True)
class Layout:
    """Place a training state between steps: whole on every device or, with ``split``, by :func:`split_axis`."""

    mesh: Mesh
    split: bool = False

    def of(self, tree: Any) -> Any:
        """Return the sharding of each array, or of each ``jax.ShapeDtypeStruct``."""
        return jax.tree.map(lambda x: NamedSharding(self.mesh, self._spec(x.shape)), tree)

    def keep(self, tree: Any) -> Any:
        """Move arrays to their sharding, inside a compiled function."""
        return jax.lax.with_sharding_constraint(tree, self.of(tree))

    def gather(self, tree: Any) -> Any:
        """Gather arrays whole on every device, inside a compiled function."""
        return jax.lax.with_sharding_constraint(tree, replicated(self.mesh)) if self.split else tree

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        axis = split_axis(shape, self.mesh.size) if self.split else None
        return PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, "data")
