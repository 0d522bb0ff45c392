"""How the phantoms' Hounsfield units compare with real scans.

    python -m benchmarks.phantom_statistics --scans FOLDER [--phantoms 64] [--size 64]

Prints a table: for each figure the range over the scans, and the phantoms' mean and range.
"""

from pathlib import Path

import jax
import numpy as np

from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.phantom import chest
from dvg_jax.data.scans.cube import prepare_volume
from dvg_jax.data.scans.index import find_scans
from dvg_jax.errors import UserError

BANDS = {
    "air and lung under -950 HU": (-2000, -950),
    "lung -950 to -500": (-950, -500),
    "edges -500 to -150": (-500, -150),
    "fat -150 to -30": (-150, -30),
    "soft tissue -30 to 150": (-30, 150),
    "bone, contrast over 200": (200, 4000),
}


def figures(intensity: np.ndarray) -> dict[str, float]:
    """Shares of the whole cube, in per cent, and moments in HU, of one volume in [0, 1]."""
    hu = intensity_to_hu(np.asarray(intensity, np.float64))
    shares = {name: 100 * np.mean((hu >= low) & (hu < high)) for name, (low, high) in BANDS.items()}
    body = np.mean(hu >= -500) + shares["lung -950 to -500"] / 100
    return shares | {
        "body, % of the cube": 100 * body,
        "lung, % of the body": shares["lung -950 to -500"] / body,
        "bone, % of the body": shares["bone, contrast over 200"] / body,
        "mean HU": hu.mean(),
        "standard deviation HU": hu.std(),
    }


def table(real: list[dict[str, float]], drawn: list[dict[str, float]]) -> str:
    """Markdown: a row a figure; the last column says whether the phantoms' mean lies within the scans' range."""
    lines = [
        "| figure | real: lowest to highest | phantoms: mean (lowest to highest) | mean within |",
        "|---|---|---|---|",
    ]
    for name in real[0]:
        r, p = np.array([f[name] for f in real]), np.array([f[name] for f in drawn])
        within = "yes" if r.min() <= p.mean() <= r.max() else "no"
        lines.append(
            f"| {name} | {r.min():.1f} to {r.max():.1f} | {p.mean():.1f} ({p.min():.1f} to {p.max():.1f}) | {within} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.phantom_statistics")
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args(argv)
    scans = [item for item in find_scans(args.scans) if not item.reason] if args.scans.is_dir() else []
    if not scans:
        raise UserError(f"--scans is {args.scans}; allowed: a folder with scans in it")
    real = [figures(prepare_volume(item.load(), args.size, preset="lung")[0]) for item in scans]
    draw = jax.jit(chest, static_argnums=1)
    drawn = [figures(draw(jax.random.fold_in(jax.random.key(0), i), args.size)) for i in range(args.phantoms)]
    print(f"{len(real)} scans and {len(drawn)} phantoms at {args.size}^3\n")
    print(table(real, drawn))


if __name__ == "__main__":
    run_command(main)
