"""Volumes of the project's frame as NIfTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np

from dvg_jax.data.files import replacing
from dvg_jax.data.frame import Affine, HostVolume

_SCANNER = 1


def save_nifti(path: str | Path, hu: HostVolume, affine: Affine) -> None:
    """Write HU ``(D, H, W)`` as int16 with sform and qform set from ``affine`` (``(d, h, w)`` to RAS mm),
    atomically.

    The file's axes are (w, h, d), so that its third axis counts axial slices as viewers expect; values
    outside int16 are clipped. A qform cannot hold shear; the sform is always exact.
    """
    voxels = np.clip(np.rint(np.asarray(hu)), -32768, 32767).astype(np.int16).transpose(2, 1, 0)
    image = nib.Nifti1Image(voxels, affine[:, [2, 1, 0, 3]])
    image.set_sform(image.affine, code=_SCANNER)
    image.set_qform(image.affine, code=_SCANNER)
    image.header.set_xyzt_units("mm")
    with replacing(Path(path)) as temporary:
        nib.save(image, temporary)
