"""3D chest CT from one or two X-rays: DVG-Diffusion in JAX/Flax."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvg_jax.reconstruct.reconstructor import Reconstructor, load_reconstructor

__version__ = version("dvg-jax")
__all__ = ["Reconstructor", "load_reconstructor"]


def __getattr__(name: str) -> Any:
    # Imported on first use: entry points set up the process before JAX is loaded, and importing this package must not.
    if name in __all__:
        from dvg_jax.reconstruct import reconstructor

        return getattr(reconstructor, name)
    raise AttributeError(f"module 'dvg_jax' has no attribute {name!r}")
