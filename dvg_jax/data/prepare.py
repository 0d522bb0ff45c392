"""Bring a folder of CT scans to the network's cube: couch removed, 320 mm, 128 voxels an axis, NIfTI and a manifest.

    python -m dvg_jax.data.prepare --input FOLDER_OF_SCANS --output data/lidc128

reads DICOM series in any tree, NIfTI, MetaImage, NRRD and X2CT's HDF5, and writes one NIfTI (int16 HU, affine to the
scan) a scan and manifest.csv, which lists every scan with its split, its remarks and the reason if it was not prepared.
The same command goes on where a run stopped; an output belongs to one input. See docs/data.md.
"""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":  # before the imports below, which take seconds in which a signal may come
    run_module("dvg_jax.data.prepare")


import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.limits import LENGTH_MM, PROCESSES, SEED, SIDE
from dvg_jax.cli.rules import Number
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.data.manifest import NAME, Row, patient_of
from dvg_jax.data.scans import remarks
from dvg_jax.data.scans.cube import PRESETS, prepare_volume
from dvg_jax.data.scans.folder import CHANGES, Job, Settings, prepare_folder
from dvg_jax.data.scans.splits import SplitRule, read_lists
from dvg_jax.errors import UserError, say

__all__ = ["Job", "Settings", "main", "prepare_folder", "prepare_volume"]

_SHOWN = 20
SHARE = Number(0, 1, open_high=True)


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    options = _parser().parse_args(argv)
    lists = {"train": options.train_list, "val": options.val_list, "test": options.test_list}
    shares = options.test_fraction, options.val_fraction
    rule = SplitRule(*shares, options.seed, read_lists(lists), options.keep_partial)
    settings = Settings(options.size, options.field_mm, options.preset, options.min_extent_mm)
    job = Job(options.output, settings, options.pictures)
    try:
        rows, changes = prepare_folder(options.input, job, rule, options.all_series, options.jobs)
    except KeyboardInterrupt as stopped:
        stopped.add_note("what is done is kept, the same command goes on")
        raise
    _report(rows, changes, options.output)
    if not any(row.status == "ok" for row in rows):
        raise UserError(
            f"{options.input}: none of its {len(rows)} scans could be prepared; see {options.output / NAME}"
        )


def _parser() -> Parser:
    about = " ".join((patient_of.__doc__ or "").split())
    parser = Parser(f"{__doc__}\n{about}", "python -m dvg_jax.data.prepare")
    parser.add_argument("--input", type=Path, required=True, help="folder, searched with its sub-folders")
    parser.add_argument("--output", type=Path, required=True, help="folder for NIfTI files and manifest.csv")
    parser.add_argument("--size", type=number(SIDE), default=128, help="voxels an axis (default %(default)s)")
    parser.add_argument(
        "--field_mm",
        type=number(LENGTH_MM),
        default=FIELD_MM,
        help="edge of the cube (default %(default)s)",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, default="x2ct",
        help="x2ct: head end and middle of the scan, as X2CT-GAN; lung: around the lungs; published: all of "
        "X2CT's cubes, resized as by the released code, for imported weights (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min_extent_mm",
        type=number(replace(LENGTH_MM, low=0)),
        default=32.0,
        help="foot to head (default %(default)s)",
    )
    parser.add_argument("--all_series", action="store_true", help="every usable DICOM series, not one a patient")
    parser.add_argument("--pictures", action="store_true", help="a PNG a scan, before and after, in OUTPUT/pictures")
    parser.add_argument(
        "--jobs", type=number(PROCESSES), default=_cpus(), help="processes (default: CPUs, here %(default)s)"
    )
    split = parser.add_argument_group("split, by patient")
    split.add_argument(
        "--test_fraction", type=number(SHARE), default=0.1, help="share of patients (default %(default)s)"
    )
    split.add_argument(
        "--val_fraction", type=number(SHARE), default=0.0, help="share of patients (default %(default)s)"
    )
    split.add_argument("--seed", type=number(SEED), default=0, help="of the split (default %(default)s)")
    for name in ("train", "val", "test"):
        split.add_argument(f"--{name}_list", type=Path, help="text file, a scan or patient a line; instead of chance")
    split.add_argument(
        "--keep_partial", action="store_true", help="also scans that cover less than half of field_mm, foot to head"
    )
    return parser


def _report(rows: list[Row], changes: list[str], output: Path) -> None:
    """Print scans that need a look, the gravest first, and the counts last."""
    _first("refused:", [f"{row.source}: {row.reason}" for row in rows if row.status == "refused"], output / NAME)
    done = [row for row in rows if row.status == "ok"]
    shared, each = remarks.worth_a_look([row.checks for row in done])
    looks = sorted(zip(each, done, strict=True), key=lambda look: remarks.rank(look[0][0]) if look[0] else 0)
    _first("look at:", [f"{row.file}: {'; '.join(checks)}" for checks, row in looks if checks], output / NAME)
    _first("all scans:", shared, output / NAME)
    _first("split:", changes, output / CHANGES)
    over = [f"{row.source}: {row.reason}" for row in rows if row.status == "passed over"]
    _first("passed over:", over, output / NAME)
    statuses, splits = Counter(row.status for row in rows), Counter(row.split for row in done)
    shares = [f"{splits[name]} {name}" for name in ("train", "val", "test") if splits[name]]
    without = [f"{splits['']} in no split"] if splits[""] else []
    counted = f"{len(done)} prepared" + (f" ({', '.join(shares + without)})" if done else "")
    say(f"{counted}, {statuses['passed over']} passed over, {statuses['refused']} refused: {output / NAME}")


def _first(what: str, lines: list[str], file: Path) -> None:
    for line in lines[:_SHOWN]:
        say(f"{what} {line}")
    if len(lines) > _SHOWN:
        say(f"{what} {len(lines) - _SHOWN} more, see {file}")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
