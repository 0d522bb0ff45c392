"""Data parallelism: the batch is split over a mesh of devices, everything else is on each of them."""

import math
import sys
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dvg_jax.errors import UserError


def data_mesh(batch_size: int, field: str) -> Mesh:
    """As many devices as split the global batch evenly, along one axis, ``data``; says so if some are left idle.

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


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Host arrays of this process's share of the batch -> one global array each, split along the first axis."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
