"""Resample scans whose axes are not at right angles, as a tilted gantry makes them, to a grid whose axes are."""

import itertools

import nibabel as nib
import numpy as np
import SimpleITK

from dvg_jax.ct.frame import AIR_HU, Affine, HostVolume, NewHostVolume, spacing

_RIGHT_ANGLE_DEG = 0.5
"""Largest angle that rounded header values give; over 300 mm it moves nothing by more than 3 mm."""


def straighten(hu: HostVolume, affine: Affine) -> tuple[NewHostVolume, Affine, float]:
    """Resample a scan to a grid at right angles, if it is not on one.

    W and the direction of travel, D, stay; H becomes square to both, so that a tilted gantry's slices become axial.
    Interpolation is linear, at the same voxel size; air fills the corners.

    Returns:
      HU (D, H, W), the affine, and by how many degrees the scan was askew (0: unchanged).
    """
    steps = np.array(spacing(affine))
    unit = affine[:3, :3] / steps
    askew = float(np.degrees(np.arcsin(min(1.0, np.abs(unit.T @ unit - np.eye(3)).max()))))
    if askew < _RIGHT_ANGLE_DEG:
        return hu, affine, 0.0
    w = unit[:, 2]
    d = unit[:, 0] - w * (w @ unit[:, 0])
    d /= np.linalg.norm(d)
    h = np.cross(d, w)
    straight = np.eye(4)
    straight[:3, :3] = np.stack([d, h * np.sign(h @ unit[:, 1]), w], axis=1) * steps
    corners = np.array(list(itertools.product(*((0, n - 1) for n in hu.shape))))
    places = np.linalg.solve(straight[:3, :3], nib.affines.apply_affine(affine, corners).T).T
    straight[:3, 3] = straight[:3, :3] @ places.min(axis=0)
    size = np.ceil(places.max(axis=0) - places.min(axis=0) - 1e-6).astype(int) + 1
    # Both images in index units: one affine map takes the new indices to the old. ITK's order is (w, h, d).
    back = (np.linalg.inv(affine) @ straight)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]
    transform = SimpleITK.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist())
    grid = (size[::-1].tolist(), transform, SimpleITK.sitkLinear, (0.0,) * 3, (1.0,) * 3, np.eye(3).ravel().tolist())
    image = SimpleITK.GetImageFromArray(hu)
    return SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, *grid, AIR_HU)), straight, askew
