"""Find the patient in a CT and leave out the couch."""

import numpy as np
import SimpleITK
from jaxtyping import Bool

from dvg_jax.ct.frame import HostVolume

HostMask = Bool[np.ndarray, "D H W"]

_TISSUE_HU = -500.0
_WORKING_MM = 2.0
_COUCH_MM = 6.0
_WALL_MM = 16.0


def body_mask(hu: HostVolume, spacing_mm: tuple[float, float, float]) -> HostMask:
    """Return a mask of the patient, air inside included; all False where there is no tissue.

    Voxels above -500 HU are opened by 6 mm, so that couch plates, blankets and tubes separate from the skin. Of the
    largest connected piece a thin chest wall that the opening broke is grown back through tissue. Holes of each axial
    slice are filled, so that lungs and airway stay although they are open at the scan's ends. A second opening
    removes what grew back of a couch, and one working voxel is added. The work is done on every n-th voxel, about
    2 mm apart.
    """
    # An axis may be shorter than the stride: at least one voxel of each axis is sampled.
    strides = [min(max(1, round(_WORKING_MM / step)), n) for step, n in zip(spacing_mm, hu.shape, strict=True)]
    coarse = hu[tuple(slice(stride // 2, None, stride) for stride in strides)]
    steps = [step * stride for step, stride in zip(spacing_mm, strides, strict=True)]
    mask = _patient(coarse > _TISSUE_HU, steps)
    nearest = [
        np.minimum(np.arange(n) // stride, m - 1) for n, stride, m in zip(hu.shape, strides, mask.shape, strict=True)
    ]
    return mask[np.ix_(*nearest)]


def _patient(tissue: HostMask, steps: list[float]) -> HostMask:
    # ITK counts axes from the last array axis.
    radius = [
        min(max(1, round(_COUCH_MM / 2 / step)), n)
        for step, n in zip(reversed(steps), reversed(tissue.shape), strict=True)
    ]
    image = SimpleITK.GetImageFromArray(tissue.astype(np.uint8))
    opened = SimpleITK.BinaryMorphologicalOpening(image, radius, SimpleITK.sitkBall)
    body = SimpleITK.RelabelComponent(SimpleITK.ConnectedComponent(opened)) == 1
    for _ in range(min(round(_WALL_MM / min(steps)), max(tissue.shape))):
        body = SimpleITK.BinaryDilate(body, (1, 1, 1), SimpleITK.sitkBall) & image
    slices = [SimpleITK.BinaryFillhole(body[:, :, d]) for d in range(tissue.shape[0])]
    solid = SimpleITK.BinaryMorphologicalOpening(SimpleITK.JoinSeries(slices), radius, SimpleITK.sitkBall)
    pieces = SimpleITK.RelabelComponent(SimpleITK.ConnectedComponent(solid))
    return SimpleITK.GetArrayFromImage(SimpleITK.BinaryDilate(pieces == 1, (1, 1, 1), SimpleITK.sitkBall)) > 0
