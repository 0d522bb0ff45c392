"""Make a small chest with noise, fat and bone, as scanners give it, and write it as no library would."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.data import made

AFFINE = made.affine() @ np.diag([1, 2, 2, 1])


def chest_hu() -> np.ndarray:
    """Return HU of ``made.chest_on_couch``, every second voxel of a slice: noise, fat under the skin, uneven air."""
    hu = made.chest_on_couch()[:, ::2, ::2].copy()
    random = np.random.default_rng(0)
    _, h, w = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in hu.shape), indexing="ij")
    skin = (h / 9) ** 2 + (w / 13) ** 2
    hu[(skin > 0.8) & (skin < 1)] = -100
    hu[(hu == 600) & (random.random(hu.shape) < 0.5)] = 300
    return np.rint(hu + random.normal(0, 12, hu.shape)).clip(-1024).astype(np.float32)


HU = chest_hu()


def circle(hu: np.ndarray, value: float) -> np.ndarray:
    """Set all voxels outside of the round field of view to ``value``."""
    padded = hu.copy()
    y, x = (np.arange(n) - (n - 1) / 2 for n in hu.shape[1:])
    padded[:, (y[:, None] / y.max()) ** 2 + (x / x.max()) ** 2 > 1] = value
    return padded


def nifti(path: Path, hu: np.ndarray = HU, affine: np.ndarray = AFFINE, **fields: object) -> Path:
    """Write a NIfTI file whose header's ``fields`` are overwritten, contradictions and all; gzip by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(hu.astype(np.float32), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    raw = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def meta_image(path: Path, data: str = "LOCAL", omit: tuple[str, ...] = (), **fields: str) -> Path:
    """Write a MetaImage header and, where ``data`` is LOCAL, the chest behind it."""
    lines = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0", "ElementSpacing": "8 8 5",
        "DimSize": " ".join(map(str, HU.shape[::-1])), "ElementType": "MET_SHORT", **fields, "ElementDataFile": data,
    }  # fmt: skip
    text = "".join(f"{name} = {value}\n" for name, value in lines.items() if name not in omit)
    path.write_bytes(text.encode() + (HU.astype("<i2").tobytes() if data == "LOCAL" else b""))
    return path


def nrrd(path: Path, data: str = "", omit: tuple[str, ...] = (), **fields: str) -> Path:
    """Write an NRRD header, whose fields have ``_`` for blanks, and the chest behind it or in ``data``."""
    lines = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior",
        "sizes": " ".join(map(str, HU.shape[::-1])), "space_directions": "(8,0,0) (0,8,0) (0,0,5)",
        "endian": "little", "encoding": "raw", "space_origin": "(0,0,0)", **fields,
    }  # fmt: skip
    text = "NRRD0005\n" + "".join(f"{k.replace('_', ' ')}: {v}\n" for k, v in lines.items() if k not in omit)
    text += f"data file: {data}\n" if data else "\n"
    path.write_bytes(text.encode() + (b"" if data else HU.astype("<i2").tobytes()))
    return path
