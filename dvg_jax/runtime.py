"""Make the process settings that must precede JAX's import, and check that JAX finds the requested device."""

import ctypes
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dvg_jax import plugins, xla_flags
from dvg_jax.errors import UserError, say

_ADVICE = re.compile(r" \((set JAX_PLATFORMS|you may need to uninstall).*", re.DOTALL)
"""JAX ends its errors about devices with advice of its own."""

_SEARCH = "jax._src.xla_bridge"
"""JAX logs its search for devices under this name."""


def set_up() -> None:
    """Make all settings of this module."""
    tune_allocator()
    xla_flags.choose(*xla_flags.ALWAYS)
    quiet()


def check_platform() -> None:
    """Let JAX find its devices, before any work; several processes must have joined before.

    Where the CUDA extra is installed and no GPU can be used, the CPU is taken only if that cannot be a mistake: on a
    machine without a GPU, which gets a warning, or because ``JAX_PLATFORMS`` allows it.

    Raises:
      UserError: ``JAX_PLATFORMS`` names a device that this machine lacks or that JAX does not know, or is unset and
        JAX cannot use the GPU that this machine has.
    """
    import jax

    wanted = os.environ.get("JAX_PLATFORMS", "")
    found, failure = "", None
    with _overheard() as said:
        try:
            found = jax.devices()[0].platform
        except (RuntimeError, AssertionError) as error:  # the latter without a message, where a plugin has failed
            failure = error
            said.append(_ADVICE.sub("", str(error)))
    on_cpu = found == "cpu" and wanted.split(",")[0] != "cpu" and plugins.has_cuda()
    if failure or (on_cpu and not wanted and plugins.has_nvidia_device()):
        here = "a device that is here, or unset" if wanted else "a GPU whose driver works (see nvidia-smi)"
        raise UserError(f"JAX_PLATFORMS is {wanted!r}: {_why_none(wanted, said)}; allowed: cpu, or {here}") from failure
    if on_cpu:
        why = _why_none("cuda", said)
        said = [f"computing on the CPU: the CUDA extra is installed, and {why}; JAX_PLATFORMS=cpu says it is meant so"]
    for line in said:
        say(f"warning: {line}", sys.stderr)


def _why_none(wanted: str, reasons: list[str]) -> str:
    """Return why JAX has none of the ``wanted`` devices: a cause that is known, or else its first reason."""
    if {"cuda", "gpu"} & set(wanted.split(",")):
        if not plugins.has_cuda():
            return "the CUDA extra is not installed"
        if not plugins.has_nvidia_device():
            return "this machine shows no NVIDIA GPU"
    return next((reason for reason in reasons if reason), "no such device was found")


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Take what JAX would log about its search for devices: a line a message, in place of tracebacks."""
    said: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        said.append(" ".join((str(error or "") or record.getMessage()).split()).rstrip("."))
        return False

    log = logging.getLogger(_SEARCH)
    log.addFilter(take)
    try:
        yield said
    finally:
        log.removeFilter(take)


def tune_allocator() -> None:
    """Keep glibc from returning every large buffer to the kernel, where JAX computes on the CPU.

    XLA's CPU client allocates and frees each intermediate. With glibc's defaults every buffer above 128 KiB is a fresh
    ``mmap`` whose pages fault in one by one, which made a 3D convolution step four times slower. With a GPU the setting
    is left out: the compiler's many threads would share one arena and wait for each other (measured on an H100,
    docs/performance.md). It is also left out on a C library without ``mallopt``.
    """
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    if not sys.platform.startswith("linux") or not plugins.computes_on_cpu():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_max, 0)
    mallopt(arena_max, 1)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


def quiet() -> None:
    """Hide XLA's C++ start-up messages, unless the user has set their level, and tracebacks that Orbax logs.

    Orbax raises the same errors, so nothing is lost.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
