"""Read the HDF5 files of X2CT-GAN's prepared LIDC: ``<root>/<scan id>/ct_xray_data.h5`` with ``ct`` (D, H, W).

The files state neither spacing nor orientation. X2CT-GAN cut a cube of 320 mm, couch removed, out of volumes in ITK's
order of axes, so H runs front to back and W from the patient's right to the left. D runs from the HEAD to the foot,
against ITK's order and this project's: LIDC's slices were stored so, and the published code flips D when it exports. D
is reversed here. The stored X-rays are not used: films are rendered from the CT.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.ct.frame import Affine, frame_affine
from dvg_jax.data.scans.limits import check_claim
from dvg_jax.errors import UserError

SUFFIXES = (".h5", ".hdf5")
EDGE_MM = 320.0

_SMALL_CHUNK = 2**20

OFFSET_HU = 1024
"""``ct`` is taken as HU plus this number, which is a choice.

X2CT's own conversion to HU subtracts 1024, but the header that it gives plastimatch for its X-rays subtracts 1000. With
1024 a prepared value is ``ct`` / 2500, as the published networks see it.
"""

ASSUMED = (
    "HDF5 states no geometry: a 320 mm cube that runs head to foot (flipped here), front to back, right to left, and "
    f"values of HU + {OFFSET_HU} are assumed"
)


def read_x2ct(path: Path) -> tuple[np.ndarray, Affine]:
    """Return HU (D, H, W), the foot first, and the affine of a 320 mm cube centred on the origin.

    Raises UserError where h5py is not installed, the file contains no three-dimensional ``ct`` of numbers, has it in
    another file, or states more voxels than it can contain.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: HDF5 needs h5py; install it with pip install 'dvg-jax[x2ct]'") from error
    with h5py.File(path, "r") as file:
        inside = isinstance(file.get("ct", getlink=True), h5py.HardLink)
        ct = file.get("ct") if inside else None
        if not isinstance(ct, h5py.Dataset) or ct.ndim != 3 or 0 in ct.shape or ct.dtype.kind not in "iuf":
            allowed = "X2CT's ct_xray_data.h5"
            raise UserError(f"{path}: holds no three-dimensional data set 'ct' of numbers; allowed: {allowed}")
        _check_storage(path, ct)
        hu = ct[...][::-1].astype(np.float32) - np.float32(OFFSET_HU)
    d, h, w = (EDGE_MM / n for n in hu.shape)
    return hu, frame_affine(hu.shape, (d, h, w))


def _check_storage(path: Path, ct: Any) -> None:
    """Check where an ``h5py.Dataset`` has its voxels. HDF5 can take them from any file, and invents what is absent."""
    if ct.external or ct.is_virtual:
        raise UserError(f"{path}: has the voxels of 'ct' in other files; allowed: in the file itself")
    if not ct.id.get_storage_size():
        raise UserError(f"{path}: has no voxels for 'ct'; allowed: a value for each")
    properties = ct.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if len(set(filters)) < len(filters):
        raise UserError(f"{path}: 'ct' is packed more than once; allowed: once")
    check_claim(path, (path,), ct.shape, ct.dtype.itemsize, packed=bool(filters))
    # A data set that may grow can have chunks larger than itself, which are unpacked as a whole.
    if math.prod(ct.chunks or ()) > max(ct.size, _SMALL_CHUNK):
        raise UserError(f"{path}: 'ct' has chunks of {ct.chunks} voxels; allowed: up to its shape, {ct.shape}")
