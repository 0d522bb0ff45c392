"""Measure how much of a nodule's contrast reaches the CT: nodules are planted in lungs, filmed and looked for.

    python -m benchmarks.nodules --workdir runs/demo [--cases 16]

Each unseen case is reconstructed with and without a ball of soft tissue at the place in its lungs that is farthest from
everything else, with the same random key. Recovered contrast is the difference of both results inside the ball, as a
share of the true difference. Modes are those of ``config.consistency.mode``, as far as the folder has them. Writes
``benchmarks/results/nodules_<name>.json``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.common import save
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_source
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.evaluate.cases import build_procedure, case_batches
from dvg_jax.metrics.bootstrap import mean_interval
from dvg_jax.metrics.tables import align
from dvg_jax.reconstruct.reconstructor import load_reconstructor
from dvg_jax.training.compilation import enable_compilation_cache

DIAMETERS_MM = (20.0, 30.0, 40.0)
LUNG = (0.03, 0.25)
"""Lung has these intensities, -950 to -400 HU."""
TISSUE = 0.42
"""A nodule has this intensity, 26 HU."""
PARTS = 4
"""The ball is evaluated at so many points along each edge of a voxel."""


def place_of(ct: np.ndarray) -> np.ndarray:
    """Return the index of the lung voxel that is farthest from everything else, (3,)."""
    lung = (ct > LUNG[0]) & (ct < LUNG[1])
    return np.array(np.unravel_index(np.argmax(distance_transform_edt(lung)), ct.shape))


def ball(shape: tuple[int, ...], centre: np.ndarray, diameter_mm: float) -> np.ndarray:
    """Return the share of each voxel that lies in a ball around the middle of a voxel, (D, H, W)."""
    fine = (np.arange(shape[0] * PARTS) + 0.5) / PARTS - 0.5
    radius = diameter_mm / 2 * shape[0] / FIELD_MM
    d, h, w = ((fine - c) ** 2 for c in centre)
    inside = d[:, None, None] + h[:, None] + w < radius**2
    n = shape[0]
    return inside.reshape(n, PARTS, n, PARTS, n, PARTS).mean((1, 3, 5), dtype=np.float32)


def recovered(workdir: Path, cases: int) -> dict[str, dict[str, list[float]]]:
    """Return the recovered contrast of each case, by mode and diameter."""
    model = load_reconstructor(workdir)
    dvg, variables, config = model.dvg, model.variables, model.config
    modes = [mode for mode in ("none", "films", "refine") if mode != "refine" or "refine" in variables]
    found: dict[str, dict[str, list[float]]] = {m: {f"{d:g}": [] for d in DIAMETERS_MM} for m in modes}
    procedure = replace(build_procedure(config), cases=cases, batch_size=1)

    def results(ct: jax.Array, key: jax.Array) -> dict[str, Any]:
        views = dvg.render(ct, dvg.angles)
        made = dvg.estimates(variables, views, dvg.angles, key)
        agreed = {m: replace(dvg, consistency=m).agree(variables, made, views, dvg.angles) for m in modes}
        return {m: np.asarray(x)[0, ..., 0] for m, x in agreed.items()}

    for batch in case_batches(build_source(config, "test"), procedure):
        ct = np.asarray(batch.truth)[0, ..., 0]
        plain, place = results(batch.truth, batch.key), place_of(ct)
        for diameter in DIAMETERS_MM:
            share = ball(ct.shape, place, diameter)
            planted = ct + share * (TISSUE - ct)
            seen = results(jnp.asarray(planted)[None, ..., None], batch.key)
            for mode in modes:
                change = np.sum(share * (seen[mode] - plain[mode])) / np.sum(share * (planted - ct))
                found[mode][f"{diameter:g}"].append(float(change))
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return means in per cent with 95 % intervals, by mode and diameter."""
    head = ["mode", *(f"{d:g} mm" for d in DIAMETERS_MM)]
    body = [[mode, *(_cell(values) for values in rows.values())] for mode, rows in found.items()]
    return align([head, *body])


def _cell(values: list[float]) -> str:
    mean, low, high = (100 * x for x in mean_interval(np.array(values), range(len(values))))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.nodules")
    parser.add_argument("--workdir", type=Path, required=True, help="a trained folder")
    parser.add_argument("--cases", type=int, default=16, help="unseen cases (default %(default)s)")
    parser.add_argument("--name", default="cpu", help="of the results file (default %(default)s)")
    options = parser.parse_args(argv)
    enable_compilation_cache()
    found = recovered(options.workdir, options.cases)
    print(table(found))
    print(save(f"nodules_{options.name}", found))


if __name__ == "__main__":
    run_command(main)
