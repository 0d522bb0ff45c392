"""Compare one reconstruction with its truth, both NIfTI files in HU that overlay.

python -m dvg_jax.metrics.compare --truth films/ct.nii.gz --result ct.nii.gz
python -m dvg_jax.metrics.compare --truth films/ct.nii.gz --result ct.nii.gz --protocol x2ct --protocol dvg
"""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":  # before the imports below, which take seconds in which a signal may come
    run_module("dvg_jax.metrics.compare")


import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from dvg_jax import runtime
from dvg_jax.cli.flags import Parser
from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.scans.read import Scan, load_scan
from dvg_jax.errors import UserError, printable, say
from dvg_jax.metrics.protocols import PROTOCOLS, RANGES, Measures
from dvg_jax.metrics.tables import whole
from dvg_jax.networks.lpips import NETWORKS

TOLERANCE_MM = 0.01
_MOST_DIGITS = 7


def compare(truth: Path, result: Path, measures: Measures | None = None) -> dict[str, float]:
    """Return metrics by name.

    A result that is not in HU, such as a poor model's, gives a warning on stderr.

    Args:
      truth: NIfTI file in HU.
      result: NIfTI file in HU on the same voxels.
      measures: the metrics to compute; by default those of protocol ``hu`` without LPIPS.

    Raises:
      UserError: the two do not lie on the same voxels, the truth is not in HU, or a metric is not finite.
    """
    a, b = load_scan(truth).checked(), load_scan(result)
    if b.doubt:
        say(f"warning: {printable(b.doubt)}", sys.stderr)
    if a.hu.shape != b.hu.shape or not _apart(a, b) <= TOLERANCE_MM:
        there, wanted, apart = _told_apart(b, a)
        raise UserError(f"{result} has {there}; allowed: the voxels of {truth}, {wanted}{apart}")
    for path, scan in ((truth, a), (result, b)):
        # Padding is air in nearly every scan.
        for note in (note for note in scan.notes if not note.startswith("padding")):
            say(f"note: {printable(str(path))}: {note}", sys.stderr)
    expected, found = (jnp.asarray(hu_to_intensity(scan.hu)) for scan in (a, b))
    return whole(str(result), (measures or Measures()).volume(expected, found))


def _corners(scan: Scan) -> np.ndarray:
    """Return the positions (8, 3) of the outermost voxels in RAS mm."""
    return np.array(
        [(scan.affine @ (*(np.array(c) * (np.array(scan.hu.shape) - 1)), 1))[:3] for c in np.ndindex(2, 2, 2)]
    )


def _apart(a: Scan, b: Scan) -> float:
    """Return the largest distance in mm between equal voxels of the two scans: it is at a corner."""
    return float(np.linalg.norm(_corners(a) - _corners(b), axis=1).max())


def _told_apart(a: Scan, b: Scan) -> tuple[str, str, str]:
    """Describe both grids with enough digits to show the difference, and say how far they are apart."""
    pairs = ((_place(a, digits), _place(b, digits)) for digits in range(1, _MOST_DIGITS))
    found, wanted = next((pair for pair in pairs if pair[0] != pair[1]), (_place(a, 1), _place(b, 1)))
    return found, wanted, f": up to {_apart(a, b):.2g} mm apart" if a.hu.shape == b.hu.shape else ""


def _place(scan: Scan, digits: int) -> str:
    # Adding zero turns -0.0 into 0.0, which is no difference.
    first, last = (" ".join(f"{x + 0.0:.{digits}f}" for x in c) for c in _corners(scan)[[0, -1]].round(digits))
    steps = " x ".join(f"{mm:.{digits + 2}g}" for mm in scan.spacing_mm)
    shape = "x".join(map(str, scan.hu.shape))
    return f"{shape} voxels, {steps} mm apart, the first at ({first}) mm, the last at ({last}) mm"


def main(argv: list[str] | None = None) -> None:
    """Run the command line: see the module's docstring."""
    parser = Parser(__doc__, "python -m dvg_jax.metrics.compare")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS, help="may be repeated; hu if left out")
    parser.add_argument("--lpips", default="", choices=NETWORKS, help="network of hu's LPIPS; none if left out")
    parser.add_argument("--lpips_range", default="unit", choices=RANGES, help="what hu's LPIPS is fed")
    options = parser.parse_args(argv)
    runtime.check_platform()
    if options.truth.exists() and options.result.exists() and options.truth.samefile(options.result):
        raise UserError(f"--truth and --result are both {options.truth}; allowed: two files")
    measures = Measures(tuple(options.protocol or ("hu",)), options.lpips, options.lpips_range)
    for name, value in compare(options.truth, options.result, measures).items():
        print(f"{name:>16} {value:.4g}")
