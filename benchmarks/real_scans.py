"""Measure all methods of trained folders on real scans, from films that no model has rendered.

    python -m benchmarks.real_scans --workdir runs/demo --scans data/lung128 [--split test] [--noise 0.01] [--imperfect]

``--scans`` is a folder by ``dvg_jax.data.prepare`` at a multiple of the models' size. Films are rendered from its scans
as they are, reduced to the model's pixels and made noisy; so voxels, rays and greys are other ones than in training.
The truth is the mean of each block of voxels. Of the line integrals the error is that of a view that nobody was shown,
at 135 degrees for 0 and 90.

With ``--imperfect`` patients stand elsewhere, and each film has a height, size, turns and a curve of its own, drawn as
by ``config.evaluate.stress=all:1`` (``dvg_jax/evaluate/stress.py``). Every method is measured on ideal films of the
patient at that place, on the films as they are, and on aligned ones.

Several ``--workdir`` are compared with each other, case by case. Writes ``benchmarks/results/real_scans_<name>.json``.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
from ml_collections import ConfigDict

from benchmarks.common import save
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_dvg, build_geometry
from dvg_jax.data.manifest import read_manifest
from dvg_jax.data.sources import Example, PreparedSource, Source
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import Cases, build_procedure
from dvg_jax.evaluate.measure import measure
from dvg_jax.evaluate.run import methods_of
from dvg_jax.evaluate.stress import Moved, Trial
from dvg_jax.methods import yardsticks
from dvg_jax.methods.base import DVG_FULL
from dvg_jax.metrics.bootstrap import mean_interval
from dvg_jax.metrics.reprojection import reprojection_metrics, unseen_angle
from dvg_jax.metrics.tables import align, interval_cell
from dvg_jax.shapes import Views, Volumes
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.workdir import load_config, load_stages
from dvg_jax.xray.views import minmax, table_of

IDEAL, TOGETHER = Trial("none", 0.0), Trial("all", 1.0)

WAYS = ("", ", films as they are", ", aligned")
"""Titles end in these where films are ideal, imperfect, and imperfect but aligned."""

FIGURES = ("psnr", "ssim", "lpips", "unseen_line_error")
DIGITS = {"psnr": 2, "ssim": 3, "lpips": 4, "unseen_line_error": 4}

Rows = dict[str, dict[str, list[float]]]
"""It maps a method to its figures, and each figure to a value for every case."""


class Reduced:
    """Reduce scans of a finer grid to the model's: to the mean of each block of voxels."""

    def __init__(self, fine: Source, size: int) -> None:
        self.fine, self.size, self.patients = fine, size, getattr(fine, "patients", None)

    @property
    def identity(self) -> str:
        return f"{self.fine.identity} at {self.size}"

    def __len__(self) -> int:
        return len(self.fine)

    def __getitem__(self, index: int) -> Example:
        ct = self.fine[index]["ct"]
        n, k = self.size, len(ct) // self.size
        return {"ct": ct.reshape(n, k, n, k, n, k, 1).mean((1, 3, 5)), "index": np.int32(index)}


class Films:
    """Render films from scans of a finer grid, at the pixels of a model's detector, with what a trial has wrong."""

    def __init__(self, config: ConfigDict, dvg: DVG, size: int, noise: float, trial: Trial = IDEAL) -> None:
        fine = ConfigDict(config.to_dict() | {"size": size})
        self.dvg, self.noise = replace(dvg, geometry=build_geometry(fine)), noise
        self.pixels, self.block = dvg.geometry.detector_shape[0], size // config.size
        self.imperfections = replace(trial.imperfections, noise=0.0)  # it comes last, at the model's pixels

    def __call__(self, ct: Volumes, key: jax.Array) -> Views:
        """Return films of one CT, (1, D, H, W, 1), as (1, V, h, w, 1) in [0, 1]."""
        if self.imperfections:
            lines = self.imperfections.films(ct, table_of(self.dvg.angles, 1), key, self.dvg.geometry)[..., 0]
        else:
            lines = self.dvg.render(ct, self.dvg.angles, normalize=False)[..., 0]
        n, k = self.pixels, self.block
        film = minmax(lines.reshape(*lines.shape[:2], n, k, n, k).mean((3, 5)))
        return minmax(film + self.noise * jax.random.normal(key, film.shape))[..., None]


def measured(workdir: Path, scans: Path, split: str, noise: float, imperfect: bool = False) -> Rows:
    """Measure every method of a trained folder on all scans of a split."""
    config = load_config(workdir)
    dvg, size = build_dvg(config), edge_of(scans, config.size)
    if not config.evaluate.lpips:
        raise UserError(f"--workdir is {workdir}, whose config.evaluate.lpips is ''; allowed: vgg or alex")
    fine: Source = PreparedSource(scans, split, size)
    if imperfect:
        fine = Moved(fine, TOGETHER, config.seed)
    procedure = replace(build_procedure(config), cases=len(fine), batch_size=1)
    methods = methods_of(config, workdir, dvg)
    names = dict.fromkeys(name for method in methods for name in method.requires)
    variables = jax.device_put(load_stages(config, workdir, tuple(names), wanted_by="real_scans"))
    methods = [*yardsticks(config, dvg), *methods]
    unseen = unseen_angle((*dvg.angles, *dvg.new_angles))
    rows: Rows = {}
    for way in WAYS if imperfect else WAYS[:1]:
        render = Films(config, dvg, size, noise, IDEAL if way == WAYS[0] else TOGETHER)

        def films(cases: Cases, way: str = way, render: Films = render) -> Views:
            i = cases.numbers[0]
            seen = render(jnp.asarray(fine[i]["ct"])[None], jax.random.key(i))
            return dvg.align(variables, seen, dvg.angles, cases.key).films if way == WAYS[2] else seen

        for batch in measure(methods, variables, dvg, Reduced(fine, config.size), procedure, films=films):
            truth = dvg.render(batch.cases.truth, (unseen,), normalize=False)[0, ..., 0]
            for title, found in batch.volumes.items():
                lines = dvg.render(batch.predictions[title].ct, (unseen,), normalize=False)[0, ..., 0]
                figures = {**found[0], **reprojection_metrics(truth, lines)}
                name = f"{title}{way}"
                for figure in FIGURES:
                    rows.setdefault(name, {f: [] for f in FIGURES})[figure].append(float(figures[figure]))
    return rows


def edge_of(scans: Path, size: int) -> int:
    """Return the voxels along an edge of a prepared folder's first scan, a multiple of a model's ``size``.

    Raises:
      UserError: no such multiple, or no scan.
    """
    ready = [row.file for row in read_manifest(scans) if row.status == "ok"]
    if not ready:
        raise UserError(f"{scans}: no prepared scan; allowed: a folder by dvg_jax.data.prepare that has one")
    edge = int(nib.load(scans / ready[0]).shape[0])
    if edge % size:
        raise UserError(f"--scans has {edge} voxels an edge; allowed: multiples of the model's {size}")
    return edge


def table(found: dict[str, Rows]) -> str:
    """Return means by folder and method, and the paired difference in PSNR to the first folder's DVG-Diffusion."""
    base = next(iter(found.values())).get(DVG_FULL)
    body = [["folder", "method", *FIGURES, "PSNR gained"]]
    for folder, rows in found.items():
        for title, figures in rows.items():
            gain = "" if base is None else interval_cell("psnr", *_gain(figures["psnr"], base["psnr"]))
            body.append([folder, title, *(f"{np.mean(figures[f]):.{DIGITS[f]}f}" for f in FIGURES), gain])
    return align(body)


def _gain(values: list[float], base: list[float]) -> tuple[float, float, float]:
    return mean_interval(np.array(values) - np.array(base), range(len(base)))


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.real_scans")
    parser.add_argument("--workdir", type=Path, action="append", required=True, help="a trained folder; repeatable")
    parser.add_argument("--scans", type=Path, required=True, help="folder by dvg_jax.data.prepare")
    parser.add_argument("--split", default="test", help="train, val, test or all (default %(default)s)")
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation, of a film in [0, 1]")
    parser.add_argument("--imperfect", action="store_true", help="films as rooms make them, as given and aligned")
    parser.add_argument("--name", default="cpu", help="of the results file (default %(default)s)")
    options = parser.parse_args(argv)
    names = [w.name for w in options.workdir]
    if len(set(names)) < len(names):
        raise UserError(f"--workdir is given as {', '.join(names)}; allowed: folders of different names")
    enable_compilation_cache()
    found = {
        w.name: measured(w, options.scans, options.split, options.noise, options.imperfect) for w in options.workdir
    }
    print(table(found))
    print(save(f"real_scans_{options.name}", found))


if __name__ == "__main__":
    run_command(main)
