"""Plant heights, sizes, turns and curves in films of scans, and compare what alignment finds with them.

    python -m benchmarks.alignment --workdir runs/demo --scans data/lung128 [--split test] [--draws 2] [--size 1]

Films are rendered from the finer grid of the scans, as by ``benchmarks.real_scans --imperfect``; ``--size`` 1 is its
imperfections, 2 twice as large ones. Errors are those of the second film's height and size against the first, and of
each film's turns; of curves the largest difference over a film's greys, as a share of the whole rise. "Rows" is
the estimate by the sums of rows alone, "model" that by the model's CT after it, "none" no estimate. Writes
``benchmarks/results/alignment_<name>.json``.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import save
from benchmarks.real_scans import Films, edge_of
from dvg_jax.alignment import align
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.data.sources import PreparedSource
from dvg_jax.evaluate.stress import Moved, Trial
from dvg_jax.film_curve import FilmCurve
from dvg_jax.imperfections import Faults, curved
from dvg_jax.metrics.tables import align as aligned_columns
from dvg_jax.reconstruct.reconstructor import Reconstructor, load_reconstructor
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.xray.placement import Placement
from dvg_jax.xray.views import table_of

NOISE = 0.01
"""Films have noise of this standard deviation, of a film in [0, 1]."""

FOUND = ("height, mm", "size, %", "roll, degrees", "tilt, degrees", "curve, % of its rise")

Errors = dict[str, list[float]]
"""It holds absolute errors by what is estimated, one a case or film."""


def errors_of(found: Placement, planted: Faults) -> Errors:
    """Compare placements, both (1, 2)."""
    true = planted.placement
    height, size = (np.asarray(a - b)[0] for a, b in ((found.height_mm, true.height_mm), (found.scale, true.scale)))
    turns = [np.abs(a - b)[0].tolist() for a, b in ((found.roll_deg, true.roll_deg), (found.tilt_deg, true.tilt_deg))]
    values = [[abs(float(height[1] - height[0]))], [100 * abs(float(size[1] - size[0]))], *turns]
    return dict(zip(FOUND, values, strict=False))


def curve_errors(found: FilmCurve, planted: Faults) -> list[float]:
    """Compare each film's curve, (1, V, n), with the planted one, which maps the other way: line integrals to greys."""
    values = np.linspace(0, 1, 101)
    off = []
    for v, (own, lines) in enumerate(zip(*(np.asarray(x)[0] for x in found), strict=True)):
        planted_greys = np.asarray(curved(jnp.asarray(values), planted.gamma[0, v], planted.bend[0, v]))
        true = np.interp(own, planted_greys, values)
        rises = [(x - x[0]) / (x[-1] - x[0]) for x in (true, lines)]
        off.append(100 * float(np.abs(rises[0] - rises[1]).max()))
    return off


def measured(model: Reconstructor, scans: Path, split: str, draws: int, size: float) -> dict[str, Errors]:
    """Return errors by way of estimating."""
    edge, dvg, trial = edge_of(scans, model.config.size), model.dvg, Trial("all", size)
    render, angles = Films(model.config, dvg, edge, NOISE, trial), table_of(model.dvg.angles, 1)
    ways: dict[str, Errors] = {}
    for draw in range(draws):
        source = Moved(PreparedSource(scans, split, edge), trial, draw)
        for i in range(len(source)):
            key = jax.random.key(1000 * draw + i)
            films = render(jnp.asarray(source[i]["ct"])[None], key)
            planted = render.imperfections.draw(key, 1, len(dvg.angles))
            by = {
                "rows": align(films, angles, dvg.geometry),
                "model": dvg.align(model.variables, films, dvg.angles, key),
            }
            none, curve = Placement.nominal(1, len(dvg.angles)), by["model"].curve
            linear = FilmCurve(curve.greys, curve.greys)
            for way, errors in {
                "none": errors_of(none, planted) | {FOUND[-1]: curve_errors(linear, planted)},
                "rows": errors_of(by["rows"].placement, planted),
                "model": errors_of(by["model"].placement, planted) | {FOUND[-1]: curve_errors(curve, planted)},
            }.items():
                for what, values in errors.items():
                    ways.setdefault(way, {}).setdefault(what, []).extend(values)
    return ways


def table(ways: dict[str, Errors]) -> str:
    """Return median and worst error by way."""
    body = [["estimate", *FOUND]]
    for way, errors in ways.items():
        cells = [f"{np.median(errors[w]):.1f}, {max(errors[w]):.1f}" if w in errors else "" for w in FOUND]
        body.append([way, *cells])
    return "median and worst error\n\n" + aligned_columns(body)


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.alignment")
    parser.add_argument("--workdir", type=Path, required=True, help="a trained folder of two views")
    parser.add_argument("--scans", type=Path, required=True, help="folder by dvg_jax.data.prepare")
    parser.add_argument("--split", default="test", help="train, val, test or all (default %(default)s)")
    parser.add_argument("--draws", type=int, default=2, help="films of each scan (default %(default)s)")
    parser.add_argument("--size", type=float, default=1.0, help="of the imperfections (default %(default)s)")
    parser.add_argument("--name", default="cpu", help="of the results file (default %(default)s)")
    options = parser.parse_args(argv)
    enable_compilation_cache()
    ways = measured(load_reconstructor(options.workdir), options.scans, options.split, options.draws, options.size)
    print(table(ways))
    print(save(f"alignment_{options.name}", ways))


if __name__ == "__main__":
    run_command(main)
