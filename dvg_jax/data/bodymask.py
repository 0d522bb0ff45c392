"""The patient without the couch."""

import numpy as np
import SimpleITK
from jaxtyping import Bool

from dvg_jax.data.frame import HostVolume

HostMask = Bool[np.ndarray, "D H W"]

_TISSUE_HU = -500.0
_WORKING_MM = 2.0
_COUCH_MM = 6.0


def body_mask(hu: HostVolume, spacing_mm: tuple[float, float, float]) -> HostMask:
    """Mask of the patient, air inside included; all False where there is no tissue.

    Voxels above -500 HU, opened by 6 mm so that couch plates, blankets and tubes part from the skin; the
    largest connected piece; one working voxel added back; holes of each axial slice filled, so that lungs and
    airway stay although they are open at the scan's ends. The work is done on every n-th voxel, about 2 mm
    apart.
    """
    strides = [max(1, round(_WORKING_MM / step)) for step in spacing_mm]
    coarse = hu[tuple(slice(stride // 2, None, stride) for stride in strides)]
    steps = [step * stride for step, stride in zip(spacing_mm, strides, strict=True)]
    mask = _largest_piece(coarse > _TISSUE_HU, steps)
    nearest = [
        np.minimum(np.arange(n) // stride, m - 1)
        for n, stride, m in zip(hu.shape, strides, mask.shape, strict=True)
    ]
    return mask[np.ix_(*nearest)]


def _largest_piece(tissue: HostMask, steps: list[float]) -> HostMask:
    image = SimpleITK.GetImageFromArray(tissue.astype(np.uint8))
    depth, height, width = (round(_COUCH_MM / 2 / step) for step in steps)
    # ITK counts axes from the last array axis.
    opened = SimpleITK.BinaryMorphologicalOpening(image, (width, height, depth), SimpleITK.sitkBall)
    pieces = SimpleITK.RelabelComponent(SimpleITK.ConnectedComponent(opened))
    grown = SimpleITK.BinaryDilate(pieces == 1, (1, 1, 1), SimpleITK.sitkBall)
    slices = [SimpleITK.BinaryFillhole(grown[:, :, d]) for d in range(tissue.shape[0])]
    return np.stack([SimpleITK.GetArrayFromImage(one) > 0 for one in slices])
