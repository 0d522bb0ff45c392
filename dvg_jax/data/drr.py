"""Render digitally reconstructed radiographs (DRRs) of a CT scan, as stand-ins for films.

    python -m dvg_jax.data.drr --ct SCAN --angle 0 --angle 90 --output films --size 32 --geometry covering

writes ``xray_000.png`` and so on (16 bit, head at the top), which ``reconstruct.py --xray`` reads, and ``ct.nii.gz``,
the cube they were rendered from, which ``reconstruct.py --like`` and ``dvg_jax.metrics.compare`` read. Films and cube
of an earlier run in that folder are replaced or removed. Give ``--size`` and ``--geometry`` of the model that will see
the films.
"""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":  # before the imports below, which take seconds in which a signal may come
    run_module("dvg_jax.data.drr")


import sys
from pathlib import Path

import jax
import numpy as np

from dvg_jax import runtime
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.limits import SIDE
from dvg_jax.cli.rules import Number
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.films import rendered
from dvg_jax.data.films.read import write_picture
from dvg_jax.data.films.template import field_share
from dvg_jax.data.scans import remarks
from dvg_jax.data.scans.cube import prepare_scan
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import printable, say
from dvg_jax.files.atomic import removal_notes, together
from dvg_jax.xray import ConeBeamGeometry, forward_project_views, view_pose
from dvg_jax.xray.geometry import GEOMETRIES
from dvg_jax.xray.views import minmax


def render_scan(path: Path, angles: tuple[float, ...], output: Path, geometry: ConeBeamGeometry) -> list[Path]:
    """Prepare a scan for the geometry's cube, render it, and write films and cube together.

    Films and cube of an earlier run in ``output`` are replaced or, if this run has none of that name, removed.

    Args:
      path: the scan, in any format that ``load_scan`` reads.
      angles: view angles in degrees.
      output: folder for the films and the cube; created if absent.
      geometry: geometry of the model that will see the films.

    Returns:
      The films' files, in the order of the angles.

    Raises:
      UserError: the scan cannot be read or prepared, angles are invalid or equal, files cannot be written, or files to
        be replaced are not of an earlier rendering.
    """
    films, cube = rendered.name_films(output, angles), output / rendered.CUBE
    side = geometry.volume_shape[0]
    stale = rendered.check(path, films, cube, side)
    prepared = prepare_scan(load_scan(path), side, preset="lung")
    for check in remarks.worth_a_look(["; ".join(prepared.checks)])[1][0]:
        say(f"warning: {printable(str(path))}: {check}", sys.stderr)
    poses = np.stack([view_pose(angle) for angle in angles])
    views = np.asarray(jax.jit(lambda v: minmax(forward_project_views(v, poses, geometry)))(prepared.volume))
    with together(stale) as removed:
        for film, view, angle in zip(films, views, angles, strict=True):
            write_picture(film, view, bits=16, rendered={"angle_deg": angle, "field_share": field_share(geometry)[1]})
        save_nifti(cube, np.asarray(intensity_to_hu(prepared.volume)), prepared.affine, rendered.NOTE)
    for line in removal_notes(removed):
        say(line, sys.stderr)
    return films


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m dvg_jax.data.drr")
    parser.add_argument("--ct", type=Path, required=True, help="NIfTI, MetaImage, NRRD or a folder with a DICOM series")
    parser.add_argument(
        "--angle", type=number(Number(-360, 360)), action="append", required=True, help="degrees; once a view"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder, made if it is missing")
    parser.add_argument(
        "--size", type=number(SIDE), default=128, help="voxels and pixels an axis (default %(default)s)"
    )
    parser.add_argument("--geometry", choices=GEOMETRIES, default="paper", help="default %(default)s")
    options = parser.parse_args(argv)
    runtime.check_platform()
    geometry = getattr(ConeBeamGeometry, options.geometry)(size=options.size)
    films = render_scan(options.ct, tuple(options.angle), options.output, geometry)
    flags = " ".join(f"--xray {film}@{angle:g}" for film, angle in zip(films, options.angle, strict=True))
    say(f"{flags} --like {options.output / rendered.CUBE}")
