"""Tell which devices JAX will look for: by its installed plugins and the files of drivers. Does not import JAX."""

import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

NVIDIA = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
"""A GPU has one of these device files: of a driver, in a container, under WSL2. JAX looks for the same."""


def computes_on_cpu() -> bool:
    """Return whether JAX will take the CPU: because it is asked to, or finds no other device.

    Without ``JAX_PLATFORMS`` JAX tries its plugins, that for CUDA only where one of ``NVIDIA`` exists.
    """
    if wanted := os.environ.get("JAX_PLATFORMS", ""):
        return wanted.split(",")[0] == "cpu"
    for_cuda = {name.startswith("xla_cuda") for name in _plugins()}
    return for_cuda <= {True} and not (for_cuda and has_nvidia_device())


def has_nvidia_device() -> bool:
    """Tell whether this machine shows an NVIDIA GPU's device file, whether or not its driver works."""
    return any(map(os.path.exists, NVIDIA))


def has_cuda() -> bool:
    """Tell whether JAX's plugin for CUDA is installed."""
    return any(name.startswith("xla_cuda") for name in _plugins())


def xla_libraries() -> list[Path]:
    """List the shared libraries that contain XLA: that of jaxlib, and one of each installed plugin."""
    found = [library for folder in _folders("jaxlib") for library in folder.glob("*jax_common.*")]
    for module in _plugins().values():
        found += [library for folder in _folders(module) for library in folder.glob("*.so")]
    return found


def _plugins() -> dict[str, str]:
    """Return the modules of JAX's installed plugins, by their names, such as ``xla_cuda12``."""
    return {plugin.name: plugin.value for plugin in entry_points(group="jax_plugins")}


def _folders(module: str) -> list[Path]:
    """Return the folders of a package, without importing it; none where it is absent."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return []
    return [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
