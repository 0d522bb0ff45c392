"""Make the process settings that must precede JAX's import, and check that JAX finds the requested device."""

import ctypes
import logging
import os
import sys
from importlib.metadata import entry_points, version

from dvg_jax.errors import UserError

_YNN_TYPES = "--xla_cpu_experimental_ynn_fusion_type"
_JAXLIB_WITH_YNN = ("0.10.", "0.11.")
_NVIDIA = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
"""Device files of a GPU: of a driver, in a container, under WSL2."""


def set_up() -> None:
    """Make all settings of this module."""
    tune_allocator()
    choose_convolutions()
    quiet()


def check_platform() -> None:
    """Let JAX find its devices, before any work; several processes must have joined before.

    Raises:
      UserError: ``JAX_PLATFORMS`` names a device that this machine lacks or that JAX does not know.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        # Where a plugin is absent JAX fails by an assertion without a message.
        why = str(error).partition(" (set JAX_PLATFORMS")[0] or "no such device was found"
        raise UserError(
            f"JAX_PLATFORMS is {wanted!r}: {why}; allowed: cpu, or a device that is here, or unset"
        ) from error


def choose_convolutions() -> None:
    """Make XLA's CPU backend convolve by Eigen; its YNN library takes three to five times as long.

    The flag is set only for jaxlib versions that are known to have it, since an unknown one in ``XLA_FLAGS`` ends the
    process. A user's own choice wins.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib").startswith(_JAXLIB_WITH_YNN) and _YNN_TYPES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_TYPES}=-individual_convolution".strip()


def tune_allocator() -> None:
    """Keep glibc from returning every large buffer to the kernel, where JAX computes on the CPU.

    XLA's CPU client allocates and frees each intermediate. With glibc's defaults every buffer above 128 KiB is a fresh
    ``mmap`` whose pages fault in one by one, which made a 3D convolution step four times slower. With a GPU the setting
    is left out: the compiler's many threads would share one arena and wait for each other (measured on an H100,
    docs/performance.md). It is also left out on a C library without ``mallopt``.
    """
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    if not sys.platform.startswith("linux") or not _computes_on_cpu():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_max, 0)
    mallopt(arena_max, 1)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


def _computes_on_cpu() -> bool:
    """Return whether JAX will take the CPU: because it is asked to, or finds no other device.

    Without ``JAX_PLATFORMS`` JAX tries its plugins, that for CUDA only where one of ``_NVIDIA`` exists.
    """
    if wanted := os.environ.get("JAX_PLATFORMS", ""):
        return wanted.split(",")[0] == "cpu"
    for_cuda = {plugin.name.startswith("xla_cuda") for plugin in entry_points(group="jax_plugins")}
    return for_cuda <= {True} and not (for_cuda and any(map(os.path.exists, _NVIDIA)))


def quiet() -> None:
    """Hide XLA's C++ start-up messages, unless the user has set their level, and tracebacks that Orbax logs.

    Orbax raises the same errors, so nothing is lost.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
