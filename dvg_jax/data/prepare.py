"""Bring scans to the network's cube: couch removed, 320 mm around the chest, 128 voxels an axis.

    python -m dvg_jax.data.prepare --input FOLDER_OF_SCANS --output data/lidc128 --size 128

writes one NIfTI (int16 HU) a scan and ``manifest.csv``. The protocol is X2CT-GAN's (HU, couch removed, 320 mm
cube, 128^3) with one resampling step in place of its two (to 1 mm by cubic splines, to 2.5 mm linearly
without a low-pass).
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dvg_jax.cli import run
from dvg_jax.data.bodymask import HostMask, body_mask
from dvg_jax.data.frame import Affine, HostVolume
from dvg_jax.data.intensity import hu_to_intensity, intensity_to_hu
from dvg_jax.data.manifest import (
    NAME,
    Row,
    assign_splits,
    patient_of,
    read_manifest,
    split_patients,
    write_manifest,
)
from dvg_jax.data.nifti import save_nifti
from dvg_jax.data.resample import resample_cube
from dvg_jax.data.scans import Scan, find_scans, load_scan
from dvg_jax.errors import UserError

AIR_HU = -1024.0
CENTRES = ("body", "protocol")


def prepare_volume(
    scan: Scan, size: int = 128, field_mm: float = 320.0, centre: str = "body"
) -> tuple[HostVolume, Affine]:
    """One scan as ``(size,) * 3`` in [0, 1] (value = clip(HU + 1024, 0, 2500) / 2500), and its affine to RAS
    mm.

    The cube of edge ``field_mm`` is cropped out, or padded with air. Its middle is, for ``centre="body"``,
    the middle of the body (H, W) at the height of the lungs' air (D); for ``"protocol"``, as X2CT-GAN has it,
    the scan's middle in H and W with the head end kept in D. Raises UserError where there is no body.
    """
    if size < 1 or field_mm <= 0:
        raise UserError(f"size = {size}, field_mm = {field_mm}: want both above 0")
    if centre not in CENTRES:
        raise UserError(f"centre = {centre!r}, want one of {CENTRES}")
    mask = body_mask(scan.hu, scan.spacing_mm)
    if not mask.any():
        raise UserError("no body: no connected tissue above -500 HU")
    middle = _body_middle(scan, mask) if centre == "body" else _protocol_middle(scan, field_mm)
    intensity = np.asarray(hu_to_intensity(np.where(mask, scan.hu, AIR_HU)), np.float32)
    volume, affine = resample_cube(intensity, scan.affine, middle, field_mm, size)
    return np.clip(volume, 0, 1), affine


def _body_middle(scan: Scan, mask: HostMask) -> tuple[float, float, float]:
    inside_air = mask & (scan.hu < -500)
    lungs = inside_air if inside_air.any() else mask
    return _middle(lungs, 0), _middle(mask, 1), _middle(mask, 2)


def _middle(mask: HostMask, axis: int) -> float:
    """Half-way between the 2nd and 98th percentile of the mask along an axis: stray pieces do not count."""
    share = np.cumsum(mask.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.int64)) / mask.sum(dtype=np.int64)
    return float(np.searchsorted(share, 0.02) + np.searchsorted(share, 0.98)) / 2


def _protocol_middle(scan: Scan, field_mm: float) -> tuple[float, float, float]:
    depth, height, width = scan.hu.shape
    kept = min(depth, field_mm / scan.spacing_mm[0])
    return depth - kept / 2 - 0.5, (height - 1) / 2, (width - 1) / 2


def prepare_folder(
    source: Path,
    output: Path,
    size: int = 128,
    field_mm: float = 320.0,
    centre: str = "body",
    test_fraction: float = 0.1,
    seed: int = 0,
) -> list[Row]:
    """Prepare every scan below ``source`` into ``output``; the manifest's rows, failed scans with their
    reason.

    An output that is still that of an unchanged source under the same options is kept, so an interrupted run
    goes on where it stopped. Raises UserError for a folder that is absent or holds no scan.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    paths = [path for path in find_scans(source) if not path.resolve().is_relative_to(output.resolve())]
    if not paths:
        raise UserError(f"{source}: holds no scan (NIfTI, MetaImage, NRRD, or folders with DICOM files)")
    settings = f"size={size} field_mm={field_mm:g} centre={centre}"
    split_patients(set(), test_fraction, seed)
    known = {row.source: row for row in read_manifest(output)} if (output / NAME).is_file() else {}
    rows: list[Row] = []
    for path in tqdm(paths, desc="prepare", unit="scan"):
        relative = path.relative_to(source).as_posix()
        stamp = _stamp(path)
        row = known.get(relative)
        if row is None or not _current(row, output, stamp, settings):
            row = _prepare_one(path, relative, output, (size, field_mm, centre), stamp, settings)
        rows.append(row)
        known[relative] = row
        write_manifest(output, assign_splits(list(known.values()), test_fraction, seed))
    rows = assign_splits(rows, test_fraction, seed)
    write_manifest(output, rows)
    return rows


def _prepare_one(
    path: Path, relative: str, output: Path, options: tuple[int, float, str], stamp: str, settings: str
) -> Row:
    patient = patient_of(path)
    try:
        scan = load_scan(path)
        patient = patient_of(path, scan.patient)
        volume, affine = prepare_volume(scan, *options)
    except UserError as error:
        return Row(patient, "", relative, "", "", "", "failed", str(error), stamp, settings)
    file = f"{patient}-{hashlib.sha256(relative.encode()).hexdigest()[:8]}.nii.gz"
    save_nifti(output / file, np.asarray(intensity_to_hu(volume)), affine)
    spacing = " ".join(f"{mm:.4g}" for mm in scan.spacing_mm)
    return Row(patient, file, relative, spacing, scan.orientation, "", "ok", "", stamp, settings)


def _stamp(path: Path) -> str:
    """Changes whenever the source does: newest modification time and total bytes."""
    stats = [file.stat() for file in ([path] if path.is_file() else path.iterdir()) if file.is_file()]
    return f"{max((s.st_mtime_ns for s in stats), default=0)}-{sum(s.st_size for s in stats)}"


def _current(row: Row, output: Path, stamp: str, settings: str) -> bool:
    same = (row.status, row.stamp, row.settings) == ("ok", stamp, settings)
    return same and (output / row.file).is_file()


def main(argv: list[str] | None = None) -> None:
    """The command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m dvg_jax.data.prepare",
        description="Prepare a folder of CT scans for training. " + " ".join((patient_of.__doc__ or "").split()),
    )
    parser.add_argument("--input", type=Path, required=True, help="folder, searched with its sub-folders")
    parser.add_argument("--output", type=Path, required=True, help="folder for NIfTI files and manifest.csv")
    parser.add_argument("--size", type=int, default=128, help="voxels an axis (default %(default)s)")
    parser.add_argument("--field_mm", type=float, default=320.0, help="edge of the cube (default %(default)s)")
    parser.add_argument("--centre", choices=CENTRES, default="body", help="of the cube (default %(default)s)")
    parser.add_argument("--test_fraction", type=float, default=0.1, help="share of patients (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default %(default)s)")
    options = parser.parse_args(argv)
    rows = prepare_folder(
        options.input,
        options.output,
        options.size,
        options.field_mm,
        options.centre,
        options.test_fraction,
        options.seed,
    )
    failed = [row for row in rows if row.status != "ok"]
    for row in failed:
        print(f"failed: {row.source}: {row.reason}")
    tests = sum(row.split == "test" for row in rows)
    done = len(rows) - len(failed)
    print(f"{done} prepared ({tests} for test), {len(failed)} failed: {options.output / NAME}")
    if len(failed) == len(rows):
        raise UserError(f"{options.input}: none of its {len(rows)} scans could be prepared")


if __name__ == "__main__":
    run(main)
