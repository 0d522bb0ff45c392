"""Define X-ray physics: geometry, poses and projectors. No networks."""

from dvg_jax.xray.geometry import ConeBeamGeometry, view_pose
from dvg_jax.xray.projector import (
    back_project,
    back_project_views,
    forward_project,
    forward_project_views,
    ray_coverage,
)

__all__ = [
    "ConeBeamGeometry",
    "back_project",
    "back_project_views",
    "forward_project",
    "forward_project_views",
    "ray_coverage",
    "view_pose",
]
