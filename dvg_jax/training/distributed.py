"""Run several processes as one, by ``jax.distributed``: automatic under SLURM or Open MPI, elsewhere by three flags."""

import os
import signal
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from dvg_jax.cli.limits import PROCESSES
from dvg_jax.cli.rules import shown
from dvg_jax.errors import UserError
from dvg_jax.training.stop import StopRequest

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""Variables that ``srun`` sets for every task. The script of a batch job lacks some of them, and is one process."""


def join(coordinator: str, processes: int | None, process: int | None) -> None:
    """Make this process one of several, where flags or a cluster say so. Must be called before JAX uses a device.

    Args:
      coordinator: HOST:PORT at which process 0 listens; "" if the cluster knows it.
      processes: their number; None if the cluster knows it.
      process: the number of this one, from 0; None if the cluster knows it.

    Raises:
      UserError: flags that make no sense, or a cluster whose processes cannot find each other.
    """
    given = {"coordinator": coordinator or None, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if cluster_tasks(os.environ) > 1:
            _initialize()
        return
    if missing:
        raise UserError(f"--{missing[0]} is missing; allowed: --coordinator, --processes and --process together")
    assert processes is not None
    assert process is not None
    check_flags(coordinator, processes, process)
    if processes > 1:
        # A process takes every device that it sees: do not ask a cluster that it may also be part of.
        _initialize(coordinator, processes, process, cluster_detection_method="deactivate")


def check_flags(coordinator: str, processes: int, process: int) -> None:
    """Refuse an address without a port and numbers out of range.

    Args:
      coordinator: HOST:PORT of process 0.
      processes: their number.
      process: the number of this one, from 0.

    Raises:
      UserError: names the flag.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator is {coordinator}; allowed: HOST:PORT, a port from 1 to {2**16 - 1}")
    if not PROCESSES.holds(processes):
        raise UserError(f"--processes is {shown(processes)}; allowed: {PROCESSES.allowed}")
    if not 0 <= process < processes:
        raise UserError(f"--process is {shown(process)}; allowed: 0 to {processes - 1}, one less than --processes")


def cluster_tasks(environment: Mapping[str, str]) -> int:
    """Return the number of tasks that a cluster has started with this one; 1 without a cluster that JAX recognises.

    Raises:
      UserError: an MPI that JAX does not recognise; each of its processes would train on its own, in one folder.
    """
    if all(name in environment for name in SLURM):
        return int(environment["SLURM_NTASKS"])
    tasks = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if tasks > 1 and "OMPI_MCA_orte_hnp_uri" not in environment:
        raise UserError(
            f"OMPI_COMM_WORLD_SIZE is {tasks}, of an Open MPI that does not say where process 0 is; allowed: "
            "--coordinator=HOST:PORT --processes=$OMPI_COMM_WORLD_SIZE --process=$OMPI_COMM_WORLD_RANK"
        )
    return tasks


def is_first() -> bool:
    """Tell whether this process is the one that writes common files."""
    return jax.process_index() == 0


def in_any(fact: bool) -> bool:
    """Tell whether ``fact`` is true in any process. All must call it at the same place; it waits for the slowest."""
    if jax.process_count() == 1:
        return fact
    return bool(np.any(multihost_utils.process_allgather(np.asarray(fact))))


def of_first(text: str) -> str:
    """Return the ``text`` of the first process, of up to 255 bytes. All must call it at the same place."""
    if jax.process_count() == 1:
        return text
    row = np.frombuffer(text.encode().ljust(256, b"\0"), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(row)).tobytes().rstrip(b"\0").decode()


def wait_for_all() -> None:
    """Wait until all processes have called it."""
    in_any(False)


def leave_if_asked(stop: StopRequest, where: str) -> None:
    """Leave, all processes together, if one of them was asked to stop; the message begins with ``where``.

    Raises:
      SystemExit: with 128 + the signal.
    """
    if in_any(stop.signal is not None):
        stop.leave(where)


def _initialize(*arguments: object, **options: object) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    before = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(*arguments, **options)  # type: ignore[arg-type]
    # JAX has taken SIGTERM for its own way of stopping together; the loop has one that Ctrl-C takes too.
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
