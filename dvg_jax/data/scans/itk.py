"""Read MetaImage and NRRD with ITK. It assumes LPS where a header is silent, so such headers are refused first."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK

from dvg_jax.ct.frame import Affine
from dvg_jax.data.scans.geometry import in_mm, no_orientation
from dvg_jax.data.scans.limits import check_claim, check_data
from dvg_jax.data.scans.meta_image import check_meta_image, claimed
from dvg_jax.errors import UserError
from dvg_jax.files.formats import Format, is_gzip
from dvg_jax.files.headers import text_fields

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las")
_READERS = {Format.META_IMAGE: "MetaImageIO", Format.NRRD: "NrrdImageIO"}


def read_itk(path: Path, kind: Format) -> tuple[np.ndarray, Affine, tuple[str, ...]]:
    """Return the array with axes (x, y, z), its affine to RAS mm, and notes.

    Raises UserError for a header without orientation or voxel sizes, for absent data, for more than one number a voxel,
    and for a file compressed as a whole.
    """
    if is_gzip(path):
        raise UserError(f"{path}: a {kind.value} file inside gzip; allowed: unpacked (its own compression is read)")
    fields = text_fields(path)
    unit = check_meta_image(path, fields) if kind is Format.META_IMAGE else _nrrd_unit(path, fields)
    separate = len(check_data(path)) > 1
    with itk_name(path, separate) as name:
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO(_READERS[kind])
        reader.SetFileName(name)
        reader.ReadImageInformation()
        size, values = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3 or values != 1:
            raise UserError(f"{path}: size {size} with {values} values a voxel; allowed: 3-D with one")
        check_claim(path, size, 1)
        image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine, notes = in_mm(path, LPS_TO_RAS @ affine, unit)
    if kind is Format.META_IMAGE:
        notes = (*notes, *claimed(fields, affine))
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), affine, notes


@contextmanager
def itk_name(path: Path, separate: bool = False) -> Iterator[str]:
    """Yield a name for ``path`` that SimpleITK accepts: its own, or a link's where its own is not UTF-8.

    ``separate`` is True if the file names others in its folder.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "dvg_jax_scan")
            for other in path.absolute().parent.iterdir() if separate else ():
                Path(folder, other.name).symlink_to(other)
            link.symlink_to(path.absolute())
            yield str(link)
        return
    yield str(path)


def _nrrd_unit(path: Path, fields: dict[str, str]) -> str:
    space = fields.get("space", "")
    if space.lower() not in _SPACES:
        stated = f"space is {space[:40]}" if space else "no space"
        raise no_orientation(path, f"{stated}; known: {', '.join(_SPACES[:3])}")
    if "spacedirections" not in fields:
        raise no_orientation(path, "no space directions")
    units = set(fields.get("spaceunits", '"mm"').replace('"', " ").split())
    if len(units) > 1:
        raise UserError(f"{path}: states lengths in {' and '.join(sorted(units))}; allowed: one unit")
    return units.pop() if units else "mm"
