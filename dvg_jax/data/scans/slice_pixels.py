"""Read pixels of DICOM CT slices: each slice with its own scale, padding set, blank slices left out.

Slices, foot to head --GDCM, slice by slice--> HU (column, row, slice), affine, notes
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK

from dvg_jax.ct.frame import Affine
from dvg_jax.data.scans.dicom import Slice
from dvg_jax.data.scans.geometry import LPS_TO_RAS
from dvg_jax.errors import UserError
from dvg_jax.files.dicom import check_frame, open_dicom

PADDING_HU = -2048.0

_LONG_BYTES = 1024

_NEAR_AIR_HU = -900.0
_LEAST_PART = 0.0025
"""Share of the slice below which a connected part with the padding's value counts as measured."""


def read_slices(slices: tuple[Slice, ...]) -> tuple[np.ndarray, Affine, tuple[str, ...]]:
    """Return HU with axes (column, row, slice), the affine to RAS mm, and notes.

    HU is ``PADDING_HU`` where nothing was measured. The affine is sheared where the gantry was tilted. Blank slices at
    the ends are left out. Raises UserError for blank slices within, and where only some slices state a rescale; the
    decoder's own errors pass through.
    """
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    hu = np.stack([_pixels(item) for item in slices])
    slices, hu, notes = _without_blanks(slices, hu)
    notes = (*notes, *_scales(slices))
    kept = sum(_pad(values, item.padding_hu) for values, item in zip(hu, slices, strict=True) if item.padding_hu)
    if kept:
        notes = (*notes, f"{kept} voxels that have PixelPaddingValue but lie among others were kept")
    return hu.transpose(2, 1, 0), _affine(slices), notes


def same_pixels(one: Path, other: Path) -> bool:
    """Return True if two files show the same: stored pixels and what makes them HU. Unreadable ones differ."""
    tags = ["PixelData", "RescaleSlope", "RescaleIntercept", "PixelRepresentation", "BitsStored"]
    try:
        a, b = (open_dicom(path, specific_tags=tags) for path in (one, other))
        return all(a.get(tag) == b.get(tag) for tag in tags)
    except Exception:  # damaged pixels raise dozens of types; they equal nothing
        return False


def _pixels(item: Slice) -> np.ndarray:
    """Return one slice's HU: a series reader would apply the first slice's type to all and wrap others' values."""
    shape = tuple(map(int, item.grid[8:]))
    _check_compressed(item.path, shape)
    with _utf8_name(item.path) as name:
        values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(name, SimpleITK.sitkFloat32, "GDCMImageIO"))
    if values.shape != (1, *shape):
        raise UserError(f"{item.path.name}: pixels have shape {values.shape}; allowed: {shape} as the header says")
    return values[0]


def _check_compressed(path: Path, shape: tuple[int, ...]) -> None:
    pixels = open_dicom(path, defer_size=_LONG_BYTES, specific_tags=["PixelData"])
    syntax = pixels.file_meta.get("TransferSyntaxUID")
    if syntax and syntax.is_transfer_syntax and syntax.is_encapsulated:
        try:
            check_frame(pixels.PixelData, shape, syntax)
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from error


@contextmanager
def _utf8_name(path: Path) -> Iterator[str]:
    """Yield a name for ``path`` that SimpleITK accepts: its own, or a link's where its own is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "dvg_jax_slice")
            link.symlink_to(path.absolute())
            yield str(link)
        return
    yield str(path)


def _without_blanks(slices: tuple[Slice, ...], hu: np.ndarray) -> tuple[tuple[Slice, ...], np.ndarray, tuple[str, ...]]:
    """Drop slices at the ends that have one value throughout, other than air's."""
    blank = (hu.min(axis=(1, 2)) == hu.max(axis=(1, 2))) & (hu[:, 0, 0] > _NEAR_AIR_HU)
    if not blank.any():
        return slices, hu, ()
    filled = np.flatnonzero(~blank)
    if not filled.size:
        raise UserError("all slices are blank; allowed: blank ones at the ends")
    part = slice(filled[0], filled[-1] + 1)
    if blank[part].any():
        names = [item.path.name for item, empty in zip(slices[part], blank[part], strict=True) if empty]
        raise UserError(
            f"{len(names)} slices within the series are blank ({names[0]}); allowed: blank ones at its ends"
        )
    return slices[part], hu[part], (f"{blank.sum()} blank slices at the ends left out",)


def _scales(slices: tuple[Slice, ...]) -> tuple[str, ...]:
    """Note slices whose header does not say how stored values become HU."""
    found = Counter(item.rescale for item in slices)
    if len(found) > 1 and set(found) != {""}:
        what, count = next((what, count) for what, count in found.most_common() if what)
        raise UserError(f"{count} of {len(slices)} slices {what}, the others do not; allowed: one scale for all")
    return tuple(f"{count} slices {what}" for what, count in found.items() if what)


def _pad(values: np.ndarray, padding: tuple[float, float]) -> int:
    """Set padding in one slice, and count voxels that have its value but were measured.

    Values below air are always padding. Values of tissue are padding only in parts that reach the slice's edge.
    """
    found = (values >= padding[0]) & (values <= padding[1])
    if padding[1] <= _NEAR_AIR_HU or not found.any():
        values[found] = PADDING_HU
        return 0
    parts = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(found.astype(np.uint8)))
    least = max(2, round(_LEAST_PART * values.size))
    labels = SimpleITK.GetArrayFromImage(SimpleITK.RelabelComponent(parts, least))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.isin(labels, edge[edge > 0])
    values[outside] = PADDING_HU
    return int(found.sum() - outside.sum())


def _affine(slices: tuple[Slice, ...]) -> Affine:
    first, last = slices[0], slices[-1]
    row_mm, column_mm = first.grid[6:8]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.grid[:3]) * column_mm
    affine[:3, 1] = np.array(first.grid[3:6]) * row_mm
    affine[:3, 2] = np.subtract(last.position, first.position) / max(1, len(slices) - 1)
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine
