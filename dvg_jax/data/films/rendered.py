"""Name the files of a rendering, and recognise those that an earlier rendering wrote."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dvg_jax.ct.nifti import note_of
from dvg_jax.data.films.read import RENDERED_KEY
from dvg_jax.errors import UserError
from dvg_jax.files.outputs import check_outputs, check_room, files_of
from dvg_jax.xray.geometry import check_angles

CUBE = "ct.nii.gz"
NOTE = "dvg_jax.data.drr"
"""Note in the cube's header, which distinguishes it from a CT that somebody stores under the same name."""

_FILM = re.compile(r"xray_-?\d[\d.]*\.png")
_DIGITS = 3


def name_films(output: Path, angles: Sequence[float]) -> list[Path]:
    """Return the file of each film, one for each angle in degrees.

    Raises UserError for an invalid angle, and for two that are one view: 0 and 360, or 90 and 90.00001.
    """
    check_angles("--angle", angles)
    return [output / f"xray_{round(angle, _DIGITS) + 0.0:03g}.png" for angle in angles]


def check(ct: Path, films: Sequence[Path], cube: Path, side: int) -> list[Path]:
    """Check that films and cube can be written and replace only an earlier rendering.

    Args:
      ct: the scan that is rendered.
      films: films to write.
      cube: cube to write, in the same folder.
      side: voxels along each axis of the cube, and pixels along each side of a film.

    Returns:
      The films of an earlier rendering in that folder.

    Raises:
      UserError: as ``check_outputs`` does, and for files that this module has not written.
    """
    written = [*films, cube]
    check_outputs({"--output": written}, {"--ct": files_of(ct)})
    for path in written:
        if path.exists() and _foreign(path):
            raise UserError(f"--output would replace {path}, which drr has not written; allowed: another folder")
    check_room([*(("--output", film, 2 * side**2) for film in films), ("--output", cube, 2 * side**3)])
    return [
        path for path in sorted(cube.parent.glob("xray_*.png")) if _FILM.fullmatch(path.name) and not _foreign(path)
    ]


def _foreign(path: Path) -> bool:
    """Return True for a file that does not say that a rendering wrote it, so that it may be somebody else's."""
    if path.name == CUBE:
        return NOTE not in (note_of(path) or "")
    try:
        with Image.open(path) as picture:
            return RENDERED_KEY not in picture.info
    except Exception:  # Pillow raises dozens of types for a file that is no picture
        return True
