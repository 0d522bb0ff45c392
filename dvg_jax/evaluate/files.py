"""Name the files of an evaluation, check that they can be written, and find those of an earlier one."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax.config import files_of_run
from dvg_jax.data import manifest
from dvg_jax.data.opening import folders_of
from dvg_jax.files.outputs import check_outputs, check_room

FOLDER, PICTURES = "evaluation", "pictures"
_NAMES = [
    f"{name}{end}" for name in ("volumes", "reprojections", "views", "coverage", "stress") for end in (".csv", ".json")
]
_PICTURE = re.compile(r"case_\d{4,}(_views)?\.png")
_PICTURE_BYTES, _TABLE_BYTES, _METHODS = 300_000, 65_536, 5
"""Rough sizes in bytes, and the number of methods on a page, suffice to notice a full disk."""


def check(config: ConfigDict, workdir: Path, report: Path | None) -> list[Path]:
    """Check that tables, pictures and page can be written and are no file that the evaluation reads.

    Returns:
      The files of an earlier evaluation. Raises UserError that names file and reason.
    """
    folder = workdir / FOLDER
    also = config.evaluate.also
    tables = [place / name for place in (folder, *([folder_of(workdir, also)] if also else [])) for name in _NAMES]
    pictured = min(config.evaluate.pictures, config.evaluate.cases)
    pictures = [path for case in range(pictured) for path in pictures_of(folder, case)]
    written = {"--workdir": [*tables, *pictures]} | ({"--report": [report]} if report else {})
    read = {"--workdir": files_of_run(workdir)}
    read["config.data.source"] = [folder / manifest.NAME for folder in folders_of(config.data.source)]
    read["config.evaluate.also"] = [folder / manifest.NAME for folder in folders_of(also)] if also else []
    check_outputs(written, read)
    wanted = [("--workdir", path, _TABLE_BYTES) for path in tables]
    wanted += [("--workdir", path, _PICTURE_BYTES) for path in pictures]
    if report is not None:
        wanted.append(("--report", report, pictured * _METHODS * (2 * config.size**3 + _PICTURE_BYTES)))
    check_room(wanted)
    earlier = [path for path in sorted((folder / PICTURES).glob("case_*.png")) if _PICTURE.fullmatch(path.name)]
    return [*tables, *earlier]


def folder_of(workdir: Path, also: str) -> Path:
    """Return the folder of the tables about the cases of ``config.evaluate.also``."""
    return workdir / FOLDER / Path(also).resolve().name


def pictures_of(folder: Path, case: int) -> tuple[Path, Path]:
    """Return the paths of a case's panel of slices and of its strip of views."""
    stem = folder / PICTURES / f"case_{case:04d}"
    return stem.with_suffix(".png"), stem.with_name(f"{stem.name}_views.png")
