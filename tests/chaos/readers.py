"""List every reader of files from outside, each with a tiny valid file, and attack them all by mutation."""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.chaos import Result
from tests.chaos.children import READ, REFUSED, Children
from tests.chaos.mutations import mutated

INPUTS = 600
MEGABYTES = 1024


@dataclass(frozen=True)
class Reader:
    """Hold one way to read one kind of file.

    Attributes:
      write: writes a valid file into an empty folder, and returns the path of the file to change.
      read: reads the changed file, or the scan that it belongs to, and returns arrays.
      text: the file begins with a text.
      checksum: all that is changed is covered by a checksum, so that no other arrays than the first may come back.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    text: bool = False
    checksum: bool = False


SHAPE = (8, 9, 10)


def volume() -> np.ndarray:
    """Return HU of a box in air, no two voxels of it alike in value."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[2:-2, 2:-2, 2:-2] = 40 + np.arange(4 * 5 * 6).reshape(4, 5, 6)
    return hu


def film() -> np.ndarray:
    return (np.arange(24 * 20).reshape(24, 20) * 120).astype(np.uint16)


def _scan(path: Path) -> np.ndarray:
    from dvg_jax.data.scans.read import load_scan

    return load_scan(path).hu


def _film(path: Path) -> np.ndarray:
    from dvg_jax.data.films.read import read_film

    return read_film(path).image


def _slice(path: Path) -> Any:
    from dvg_jax.data.scans.dicom import Slice, read_header
    from dvg_jax.data.scans.slice_pixels import same_pixels
    from dvg_jax.errors import UserError

    header = read_header(path)
    reason = header.not_a_slice if isinstance(header, Slice) else header
    if reason:
        raise UserError(reason)  # as in a row of the manifest
    return same_pixels(path, path)


def _series(path: Path) -> np.ndarray:
    return _scan(path.parent)


def _header_beside(name: str, path: Path) -> np.ndarray:
    return _scan(path.with_name(name))


def _torch(path: Path) -> list[np.ndarray]:
    from dvg_jax.torch_import.reader import load_checkpoint

    content = load_checkpoint(path)
    arrays = content.values() if isinstance(content, dict) else []
    # Copies, since the file that they are views of will be written over.
    return [array.copy() for array in arrays if isinstance(array, np.ndarray)]


def _pickle(path: Path) -> list[np.ndarray]:
    """Read a pickle inside a zip file whose checksums are right."""
    from tests.chaos import torch_files

    (_, _), *others = torch_files.members()
    whole = path.with_name("a.pt")
    whole.write_bytes(torch_files.zipped([("a/data.pkl", path.read_bytes()), *others]))
    return _torch(whole)


def _manifest(path: Path) -> Any:
    from dvg_jax.data.manifest import read_manifest

    return read_manifest(path.parent)


def _config(path: Path) -> Any:
    from dvg_jax import config

    return config.completed(config.read(path))


def _nifti(name: str, folder: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume(), np.diag([3.0, 3, 3, 1])), folder / name)
    return folder / name


def _meta_image(folder: Path) -> Path:
    (folder / "a.mha").write_bytes(_meta_header("LOCAL") + volume().tobytes())
    return folder / "a.mha"


def _meta_packed(folder: Path) -> Path:
    packed = zlib.compress(volume().tobytes())
    size = f"CompressedData = True\nCompressedDataSize = {len(packed)}\n"
    (folder / "a.mhd").write_bytes(_meta_header("a.zraw", size))
    (folder / "a.zraw").write_bytes(packed)
    return folder / "a.zraw"


def _meta_header(data: str, more: str = "") -> bytes:
    size = " ".join(map(str, SHAPE[::-1]))
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"{more}TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nCenterOfRotation = 0 0 0\n"
        f"AnatomicalOrientation = RAI\nElementSpacing = 3 3 3\nDimSize = {size}\nElementType = MET_SHORT\n"
        f"ElementDataFile = {data}\n"
    ).encode()


def _nrrd(folder: Path) -> Path:
    (folder / "a.nrrd").write_bytes(_nrrd_header("raw") + b"\n" + volume().tobytes())
    return folder / "a.nrrd"


def _nrrd_packed(folder: Path) -> Path:
    (folder / "a.nhdr").write_bytes(_nrrd_header("gzip") + b"data file: a.raw.gz\n")
    (folder / "a.raw.gz").write_bytes(gzip.compress(volume().tobytes(), mtime=0))
    return folder / "a.raw.gz"


def _nrrd_header(encoding: str) -> bytes:
    size = " ".join(map(str, SHAPE[::-1]))
    return (
        "NRRD0004\n# a comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {size}\nspace directions: (3,0,0) (0,3,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
        f"encoding: {encoding}\nspace origin: (0,0,0)\n"
    ).encode()


def _hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "ct_xray_data.h5", "w") as file:
        file.create_dataset("ct", data=volume() + 1024, compression="gzip", shuffle=True, fletcher32=True)
    return folder / "ct_xray_data.h5"


def _dicom_series(folder: Path) -> Path:
    from dvg_jax.ct.frame import frame_affine
    from tests.data.made import write_series

    write_series(folder, volume(), frame_affine(SHAPE, (3.0, 3.0, 3.0)))
    for number, path in enumerate(sorted(folder.iterdir())):
        _fixed(path, number)
    return path


def _dicom_film(folder: Path) -> Path:
    from tests.data.made_films import write_dicom

    return _fixed(write_dicom(folder / "a.dcm", film(), PixelSpacing=[0.4, 0.4], ViewPosition="PA"), 0)


def _fixed(path: Path, number: int) -> Path:
    """Give a DICOM file UIDs that are the same at every run, as the seeds are."""
    import pydicom

    data = pydicom.dcmread(path)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}"
    data.StudyInstanceUID = data.SeriesInstanceUID = data.FrameOfReferenceUID = "1.2.3.5"
    data.save_as(path, enforce_file_format=True)
    return path


def _picture(name: str, folder: Path, **options: Any) -> Path:
    from PIL import Image

    deep = name.endswith((".png", ".tif"))
    Image.fromarray(film() if deep else (film() >> 8).astype(np.uint8)).save(folder / name, **options)
    return folder / name


def _torch_file(folder: Path) -> Path:
    from tests.chaos import torch_files

    (folder / "a.pt").write_bytes(torch_files.good())
    return folder / "a.pt"


def _pickle_file(folder: Path) -> Path:
    from tests.chaos import torch_files

    (folder / "data.pkl").write_bytes(torch_files.pickled(torch_files.LIKE_LIGHTNING))
    return folder / "data.pkl"


def _manifest_file(folder: Path) -> Path:
    from dvg_jax.data.manifest import Row, write_manifest

    row = Row("p-1", "1.2.3", "p-1.nii.gz", "p1/a.nii", "3 3 3", "LPS", "train", "", "ok", "", "ab12", "cd34", "/data")
    write_manifest(folder, [row, row])
    return folder / "manifest.csv"


def _config_file(folder: Path) -> Path:
    from dvg_jax import config

    (folder / "config.json").write_text(json.dumps(config.default_config().to_dict(), indent=2))
    return folder / "config.json"


READERS: dict[str, Reader] = {
    "NIfTI": Reader(partial(_nifti, "a.nii"), _scan),
    "NIfTI, gzip": Reader(partial(_nifti, "a.nii.gz"), _scan, checksum=True),
    "MetaImage": Reader(_meta_image, _scan, text=True),
    "MetaImage, zlib data": Reader(_meta_packed, partial(_header_beside, "a.mhd"), checksum=True),
    "NRRD": Reader(_nrrd, _scan, text=True),
    "NRRD, gzip data": Reader(_nrrd_packed, partial(_header_beside, "a.nhdr"), checksum=True),
    "HDF5": Reader(_hdf5, _scan),
    "DICOM slice": Reader(_dicom_series, _slice),
    "DICOM series": Reader(_dicom_series, _series),
    "DICOM film": Reader(_dicom_film, _film),
    "PNG": Reader(partial(_picture, "a.png"), _film, checksum=True),
    "JPEG": Reader(partial(_picture, "a.jpg"), _film),
    "TIFF": Reader(partial(_picture, "a.tif"), _film),
    "TIFF, deflate": Reader(partial(_picture, "a.tif", compression="tiff_adobe_deflate"), _film),
    "PyTorch file": Reader(_torch_file, _torch, checksum=True),
    "PyTorch file's pickle": Reader(_pickle_file, _pickle),
    "manifest.csv": Reader(_manifest_file, _manifest, text=True),
    "config.json": Reader(_config_file, _config, text=True),
}


def same(first: Any, second: Any) -> bool:
    """Return True if two readings gave the same arrays."""
    pair = [value if isinstance(value, list) else [value] for value in (first, second)]
    return len(pair[0]) == len(pair[1]) and all(map(np.array_equal, *pair))


def check(reader: Reader, expected: Any, path: Path) -> None:
    """Read a changed file. Raises UserError where it is refused, AssertionError for other arrays despite a checksum."""
    found = reader.read(path)
    if reader.checksum and not same(found, expected):
        raise AssertionError("other values than those under the checksum")


def attack(folder: Path, until: float, inputs: int = INPUTS) -> Result:
    """Change files and read each in a child process; the readers take turns."""
    children = Children(MEGABYTES)
    valid = {}
    for number, (name, reader) in enumerate(READERS.items()):
        place = folder / f"reader{number}"
        place.mkdir()
        path = reader.write(place)
        valid[name] = path, path.read_bytes(), reader.read(path)
    tried, failed = 0, []
    for seed in range(inputs):
        name = list(READERS)[seed % len(READERS)]
        reader, (path, data, expected) = READERS[name], valid[name]
        path.write_bytes(mutated(data, seed, reader.text))
        found = children.outcome(partial(check, reader, expected), path, until)
        path.write_bytes(data)
        if found is None:
            break
        tried += 1
        if found != READ and not found.startswith(REFUSED):
            failed.append(f"{name}, seed {seed}: {found}")
    return Result("readers", tried, tried - len(failed), tuple(failed))
