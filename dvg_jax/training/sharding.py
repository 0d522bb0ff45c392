"""Data parallelism: the batch is split over a mesh of devices, everything else is on each of them."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dvg_jax.errors import UserError


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, ``data``.

    Auto axes are asked for by name: explicit ones reject the U-Net's reshape of batch and depth into one axis.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Host arrays of this process's share of the batch -> one global array each, split along the first axis."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def check_batch_size(mesh: Mesh, batch_size: int, field: str) -> None:
    """A global batch must split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"{field} is {batch_size}; allowed: multiples of the {mesh.size} devices")
