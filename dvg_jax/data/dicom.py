"""CT series stored as DICOM, one file a slice: headers are read once, pixels when a series is prepared.

files --read_header--> Slice | reason --group--> Series (slices foot to head, or a reason) --read_series--> array
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from dvg_jax.data.frame import Affine
from dvg_jax.errors import UserError

SUFFIXES = (".dcm", ".dicom", ".ima")
MIN_SLICES = 8
"""Fewer along any axis is a localiser or a fragment, not a volume."""

PADDING_HU = -2048.0

_GAP_TOLERANCE = 0.1
_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 1e-3
_AXIAL = 0.8
_SHARP = re.compile(r"bone|lung|edge|sharp|detail|^[bhi]r?[5-9]\d", re.I)
_INDEX_OF_A_DISC = "1.2.840.10008.1.3.10"
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_UNDEFINED_LENGTH = 0xFFFFFFFF
"""Of compressed pixels, whose end a mark tells; where that is missing the decoder complains."""
_LONG_BYTES = 1024
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "ImageType", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SamplesPerPixel", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "ConvolutionKernel", "PixelData",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """What a file's header says. ``grid`` is direction (6), spacing (2), rows and columns: equal within a volume."""

    path: Path
    series: str
    instance: str
    patient: str
    not_a_slice: str
    original: bool
    kernel: str
    position: tuple[float, ...]
    grid: tuple[float, ...]
    padding_hu: tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """Slices of one SeriesInstanceUID from foot to head (or along their normal); ``reason`` says why it is no volume.

    ``passed_over`` marks what nobody expects to be prepared (localisers, other modalities); ``notes`` what was left
    out of a good series.
    """

    uid: str
    patient: str
    slices: tuple[Slice, ...]
    reason: str = ""
    passed_over: bool = False
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple:
        """Sorts a patient's series, best first: original before derived, axial before other planes, most slices,
        thinnest, a soft kernel before a sharp one, then by UID.
        """
        first = self.slices[0]
        axial = abs(_normal(first)[2]) > _AXIAL
        thickness = round(float(np.median(np.abs(np.diff(_along(self.slices))))), 2)
        sharp = bool(_SHARP.search(first.kernel))
        return (not first.original, not axial, -len(self.slices), thickness, sharp, self.uid)


def looks_like_dicom(path: Path) -> bool:
    """By suffix, or by the mark after a file's 128-byte preamble; series are also exported as 000001 or 1.2.840."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Slice | str | None:
    """A file's header without its pixels; the reason where it cannot be read; None for a disc's index (DICOMDIR)."""
    try:
        # Long values are skipped; what ends before its pixels do, compressed ones included, is found all the same.
        header = pydicom.dcmread(path, defer_size=_LONG_BYTES, specific_tags=_TAGS)
        if header.file_meta.get("MediaStorageSOPClassUID") == _INDEX_OF_A_DISC:
            return None
        return _slice(path, header) if header.get("SeriesInstanceUID") else "header states no SeriesInstanceUID"
    except InvalidDicomError:
        return "not a DICOM file"
    except Exception as error:  # damaged headers raise dozens of types
        return f"header cannot be read ({' '.join(str(error).split()) or type(error).__name__})"


def group(slices: Iterable[Slice]) -> list[Series]:
    """Series by their UID wherever their files lie, each checked; in order of UID."""
    members: dict[str, list[Slice]] = defaultdict(list)
    for item in slices:
        members[item.series].append(item)
    return [_checked(uid, members[uid]) for uid in sorted(members)]


def read_series(series: Series) -> tuple[np.ndarray, Affine]:
    """HU with axes (column, row, slice), ``PADDING_HU`` where nothing was measured; and the affine to RAS mm, sheared
    where the gantry was tilted.

    Raises UserError for a series with a ``reason``; the reader's own errors pass through.
    """
    if series.reason:
        raise UserError(series.reason)
    # ITK warns on stderr of uneven slices; _checked has said it in the project's own way.
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    image = SimpleITK.ReadImage([str(item.path) for item in series.slices])
    hu = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    first, last = series.slices[0], series.slices[-1]
    if hu.shape != (len(series.slices), *map(int, first.grid[8:])):
        raise UserError(f"pixels have shape {hu.shape}, want {len(series.slices)} slices as the headers say")
    affine = np.eye(4)
    row_mm, column_mm = first.grid[6:8]
    affine[:3, 0] = np.array(first.grid[:3]) * column_mm
    affine[:3, 1] = np.array(first.grid[3:6]) * row_mm
    affine[:3, 2] = np.subtract(last.position, first.position) / (len(series.slices) - 1)
    affine[:3, 3] = first.position
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    for values, item in zip(hu, series.slices, strict=True):
        if item.padding_hu:
            values[(values >= item.padding_hu[0]) & (values <= item.padding_hu[1])] = PADDING_HU
    return hu.transpose(2, 1, 0), lps_to_ras @ affine


def _slice(path: Path, header: pydicom.Dataset) -> Slice:
    kinds = tuple(str(kind).upper() for kind in _many(header.get("ImageType")))
    position, direction, pixel = (
        tuple(float(v) for v in _many(header.get(tag)))
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    shape = (float(header.get("Rows") or 0), float(header.get("Columns") or 0))
    kernel = _many(header.get("ConvolutionKernel"))
    return Slice(
        path,
        str(header.SeriesInstanceUID),
        str(header.get("SOPInstanceUID") or path),
        str(header.get("PatientID") or "").strip(),
        _not_a_slice(path, header, kinds, (position, direction, pixel)),
        bool(kinds) and kinds[0] == "ORIGINAL",
        str(kernel[0]) if kernel else "",
        position,
        (*direction, *pixel, *shape),
        _padding_hu(header),
    )


def _not_a_slice(path: Path, header: pydicom.Dataset, kinds: tuple[str, ...], geometry: tuple) -> str:
    """Why a file is no slice of a CT volume; empty where it is one."""
    modality = header.get("Modality") or "not stated"
    if modality != "CT":
        return f"modality is {modality}; allowed: CT"
    if "LOCALIZER" in kinds:
        return "localiser (scout image)"
    if str(header.get("SOPClassUID")).startswith(_CAPTURE) or int(header.get("SamplesPerPixel") or 1) != 1:
        return "secondary capture, not HU"
    if int(header.get("NumberOfFrames") or 1) > 1:
        return "multi-frame CT; allowed: one file a slice (convert it with dcm2niix)"
    if tuple(map(len, geometry)) != (3, 6, 2):
        return "slices state no position, direction or pixel spacing, so left and right are unknown"
    if not np.isfinite([v for values in geometry for v in values]).all() or min(geometry[2]) <= 0:
        return f"pixel spacing is {geometry[2]} mm, position {geometry[0]}; allowed: finite, steps above 0"
    pixels = header.get_item("PixelData", keep_deferred=True)
    if pixels is None:
        return "no pixels in the file"
    if isinstance(pixels, RawDataElement) and pixels.value is None and pixels.length != _UNDEFINED_LENGTH:
        end = pixels.value_tell + pixels.length
        if path.stat().st_size < end:
            return f"{path.name} is cut off: {path.stat().st_size} bytes, {end} stated"
    return ""


def _padding_hu(header: pydicom.Dataset) -> tuple[float, float] | None:
    """Lowest and highest HU that stand for no measurement, by the header (PixelPaddingValue, -RangeLimit)."""
    if header.get("PixelPaddingValue") is None:
        return None
    stored = [header.PixelPaddingValue, header.get("PixelPaddingRangeLimit", header.PixelPaddingValue)]
    if header.get("PixelRepresentation") == 1:  # some writers store a signed value as unsigned: 63536 for -2000
        stored = [value - 65536 if value > 32767 else value for value in stored]
    slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
    low, high = sorted(slope * float(value) + intercept for value in stored)
    return low, high


def _checked(uid: str, members: list[Slice]) -> Series:
    """Order the slices and find what stands against the series."""
    patient = next((item.patient for item in members if item.patient), "")
    good = [item for item in members if not item.not_a_slice]
    reasons = sorted({item.not_a_slice for item in members if item.not_a_slice})
    cut = next((reason for reason in reasons if "cut off" in reason), "")
    if not good or cut:
        only_other = not any(r.startswith(("slices state", "pixel spacing", "multi-frame")) for r in reasons)
        return Series(uid, patient, tuple(members), cut or "; ".join(reasons), passed_over=not cut and only_other)
    notes = [f"{len(members) - len(good)} files left out: {'; '.join(reasons)}"] if reasons else []
    unique = {item.instance: item for item in sorted(good, key=lambda item: item.path, reverse=True)}
    if len(unique) < len(good):
        notes.append(f"{len(good) - len(unique)} copies of slices left out")
    series = Series(uid, patient, tuple(unique.values()), notes=tuple(notes))
    return _ordered(series)


def _ordered(series: Series) -> Series:
    alike = _alike(series.slices)
    small = [part for part in alike[1:] if len(part) < MIN_SLICES]
    if len(alike) - len(small) > 1:
        sizes = " and ".join(str(len(part)) for part in alike)
        reason = f"{sizes} slices of different orientation, spacing or matrix; allowed: one volume"
        return replace(series, reason=reason)
    if small:
        note = f"{sum(map(len, small))} slices of another orientation, spacing or matrix left out"
        series = replace(series, notes=(*series.notes, note))
    ordered = tuple(sorted(alike[0], key=lambda item: float(np.dot(_normal(item), item.position))))
    series = replace(series, slices=ordered)
    if len(ordered) < MIN_SLICES:
        return replace(series, reason=f"{len(ordered)} slices, want at least {MIN_SLICES} (a localiser or a fragment)")
    return replace(series, reason=_uneven(ordered))


def _alike(slices: tuple[Slice, ...]) -> list[list[Slice]]:
    """Slices of equal direction, spacing and matrix together; the largest part first."""
    parts: list[list[Slice]] = []
    for item in slices:
        for part in parts:
            if np.allclose(item.grid, part[0].grid, rtol=0, atol=_SAME_DIRECTION):
                part.append(item)
                break
        else:
            parts.append([item])
    return sorted(parts, key=len, reverse=True)


def _uneven(slices: tuple[Slice, ...]) -> str:
    """Where slices are missing, double, or not in one line; empty where they are even."""
    points = np.array([item.position for item in slices])
    steps = np.diff(_along(slices))
    usual = float(np.median(steps))
    double = np.flatnonzero(steps < _SAME_PLACE_MM)
    if double.size:
        names = f"{slices[double[0]].path.name} and {slices[double[0] + 1].path.name}"
        return f"{double.size} slices lie where another lies ({names}); allowed: one slice a place"
    odd = np.flatnonzero(abs(steps - usual) > _GAP_TOLERANCE * usual)
    if odd.size:
        where = f"slice {odd[0] + 1} is followed by a step of {steps[odd[0]]:.2f} mm"
        return f"{where}, usual step {usual:.2f} mm, want even steps (missing slices?)"
    line = points[0] + np.linspace(0, 1, len(points))[:, None] * (points[-1] - points[0])
    aside = float(np.linalg.norm(points - line, axis=1).max())
    return f"slices lie up to {aside:.1f} mm beside one line, want a straight stack" if aside > usual else ""


def _normal(item: Slice) -> np.ndarray:
    return np.cross(item.grid[:3], item.grid[3:6])


def _along(slices: tuple[Slice, ...]) -> np.ndarray:
    return np.array([item.position for item in slices]) @ _normal(slices[0])


def _many(value: object) -> tuple:
    if value is None or value == "":
        return ()
    return tuple(value) if isinstance(value, (MultiValue, list, tuple)) else (value,)
