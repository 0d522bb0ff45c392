"""Figures of one reconstruction beside its truth, both NIfTI files in HU that overlay.

python -m dvg_jax.metrics.compare --truth films/ct.nii.gz --result ct.nii.gz
python -m dvg_jax.metrics.compare --truth films/ct.nii.gz --result ct.nii.gz --protocol x2ct --protocol dvg
"""

import argparse
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dvg_jax.cli import run
from dvg_jax.data.intensity import hu_to_intensity
from dvg_jax.data.scans import Scan, load_scan
from dvg_jax.errors import UserError, printable
from dvg_jax.metrics.protocols import PROTOCOLS, RANGES, Measures
from dvg_jax.networks.lpips import NETWORKS

TOLERANCE_MM = 0.01


def compare(truth: Path, result: Path, measures: Measures | None = None) -> dict[str, float]:
    """Figures by name, those of protocol ``hu`` without LPIPS unless told otherwise.

    Raises UserError where the two do not lie on the same voxels or the truth is no HU. A result that is no HU, as that
    of a poor model may be, is said on stderr.
    """
    a, b = load_scan(truth).checked(), load_scan(result)
    if b.doubt:
        print(f"warning: {printable(b.doubt)}", file=sys.stderr)
    if a.hu.shape != b.hu.shape or np.abs(a.affine - b.affine).max() > TOLERANCE_MM:
        raise UserError(f"{result} has {_place(b)}; allowed: the voxels of {truth}, {_place(a)}")
    expected, found = (jnp.asarray(hu_to_intensity(scan.hu)) for scan in (a, b))
    return (measures or Measures()).volume(expected, found)


def _place(scan: Scan) -> str:
    corner = " ".join(f"{x:.1f}" for x in scan.affine[:3, 3])
    return f"{'x'.join(map(str, scan.hu.shape))} voxels, {scan.spacing_mm[0]:g} mm apart, the first at ({corner}) mm"


def main(argv: list[str] | None = None) -> None:
    """The command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m dvg_jax.metrics.compare", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS, help="may be repeated; hu if left out")
    parser.add_argument("--lpips", default="", choices=NETWORKS, help="network of hu's LPIPS; none if left out")
    parser.add_argument("--lpips_range", default="unit", choices=RANGES, help="what hu's LPIPS is fed")
    options = parser.parse_args(argv)
    measures = Measures(tuple(options.protocol or ("hu",)), options.lpips, options.lpips_range)
    for name, value in compare(options.truth, options.result, measures).items():
        print(f"{name:>16} {value:.4g}")


if __name__ == "__main__":
    run(main)
