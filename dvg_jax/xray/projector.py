"""Project volumes and back-project images, differentiably in volume, image and pose.

Voxel i is centred at i + 1/2. Between voxel centres a volume is trilinear. Beyond the outermost centres it falls to
zero over one voxel, so that no ray can jump over an edge.

There are three forms, and the pose decides between them:

    level    poses known when a program is traced, whose rows run along D: tables and lines of voxels, both directions
    planes   any other pose, plane of voxels by plane of voxels, forward
    rays     any other pose, voxel by voxel, back; ray by ray, forward, as reference and for cones of over 30 degrees
"""

import functools

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool

from dvg_jax.shapes import Image, Pose, Poses, Projections, Volume
from dvg_jax.xray.crossings import all_rays_cross
from dvg_jax.xray.geometry import ConeBeamGeometry
from dvg_jax.xray.level import back_project_level, forward_project_level, is_level
from dvg_jax.xray.planes import forward_project_planes
from dvg_jax.xray.rays import back_project_rays, forward_project_rays


def forward_project(volume: Volume, pose: Pose, geometry: ConeBeamGeometry) -> Image:
    """Return line integrals of a volume along the rays of a view, Eq. (9): sum of value * step, in value * mm.

    A level pose given as a NumPy array (as ``view_pose`` returns for plain numbers) is projected line by line. Any
    other pose is projected plane by plane, with gradients for all six of its numbers. The two methods differ by less
    than 0.5 % rms on smooth volumes, 3 % on 32^3 chests. ``jax.vjp`` in the volume gives the exact transpose of either.
    Planes are differentiated in reverse only: ``jax.jvp`` and ``jax.linear_transpose`` are refused.

    Args:
      volume: the values to integrate, (D, H, W).
      pose: of the view, from :func:`view_pose`.
      geometry: of source, volume and detector.
    """
    if is_level(pose):
        return forward_project_level(volume, pose, geometry)
    if all_rays_cross(geometry):
        return forward_project_planes(volume, pose, geometry)
    return forward_project_rays(volume, pose, geometry)


def back_project(image: Image, pose: Pose, geometry: ConeBeamGeometry) -> Volume:
    """Spread an image along its rays, Eq. (1).

    Each voxel gets the image value where its ray meets the detector, divided by the length in mm of that ray in the
    volume. It gets zero where the ray misses the detector. A level pose given as a NumPy array is about twice as fast;
    the values are the same up to rounding.

    Args:
      image: values of the detector's pixels, (h, w).
      pose: of the view, from :func:`view_pose`.
      geometry: of source, volume and detector.
    """
    if is_level(pose):
        return back_project_level(image, pose, geometry)
    return back_project_rays(image, pose, geometry)


def forward_project_views(volume: Volume, poses: Poses, geometry: ConeBeamGeometry) -> Projections:
    """Return one image a pose.

    Args:
      volume: the values to integrate, (D, H, W).
      poses: (V, 6), each as from :func:`view_pose`.
      geometry: of source, volume and detector.
    """
    return jnp.stack([forward_project(volume, pose, geometry) for pose in poses])


def back_project_views(images: Projections, poses: Poses, geometry: ConeBeamGeometry) -> Volume:
    """Return V_bp, Eq. (2): the sum of the back projections of all views.

    Args:
      images: (V, h, w).
      poses: (V, 6), each as from :func:`view_pose`.
      geometry: of source, volume and detector.
    """
    parts = (back_project(image, pose, geometry) for image, pose in zip(images, poses, strict=True))
    return functools.reduce(jnp.add, parts)


def ray_coverage(poses: Poses, geometry: ConeBeamGeometry) -> Bool[Array, "D H W"]:
    """Return which voxels lie within the cone of at least one view, (D, H, W), bool."""
    ones = jnp.ones(geometry.detector_shape)
    return back_project_views(jnp.stack([ones] * len(poses)), poses, geometry) > 0
