"""The projector conventions by the name that ``config.projector`` gives; each is a module of this package.

    default      Eq. (9) in mm, Eq. (1) gathered voxel by voxel; voxel i lies at i + 1/2 in both directions
    published    the released kernels, with the half voxel between their directions, their scales and their rounding

A module is imported when it is asked for, so that the default does not depend on the other.
"""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from jax import Array
from jaxtyping import Float

from dvg_jax.shapes import Poses, Volume
from dvg_jax.xray.geometry import ConeBeamGeometry

_MODULES = {"default": "dvg_jax.xray.projector", "published": "dvg_jax.xray.published"}


class Projector(NamedTuple):
    """One image a pose from a volume, and V_bp, the sum over views, at the scale that networks see."""

    forward: Callable[[Volume, Poses, ConeBeamGeometry], Float[Array, "V h w"]]
    back: Callable[[Float[Array, "V h w"], Poses, ConeBeamGeometry], Volume]


def projector(name: str) -> Projector:
    """The pair of that name.

    Eq. (1) gives image / path length in mm; it is multiplied by the volume's depth, so that a uniform view of 1 gives
    about 1. The published back projection has a scale of its own, which the released weights expect.
    """
    module = import_module(_MODULES[name])
    if name != "default":
        return Projector(module.forward_project_views, module.back_project_views)

    def back(images: Float[Array, "V h w"], poses: Poses, geometry: ConeBeamGeometry) -> Volume:
        return module.back_project_views(images, poses, geometry) * geometry.extent_mm[1]

    return Projector(module.forward_project_views, back)
