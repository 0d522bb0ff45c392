"""Measure how much of the error is covered by the spread of samples and by the error map, on unseen cases and scans.

    python -m benchmarks.spread --workdir runs/demo [--scans data/lung128] [--split test] [--cases 16] [--samples 8]
        [--sampler ddim] [--steps 100] [--imperfect]

Each case is reconstructed ``--samples`` times, in each mode of ``config.consistency.mode`` that the folder has. An
interval of a nominal share is, by the samples, their mean and so many standard deviations to either side as cover that
share of a normal distribution; by the map, the first sample and its calibrated bound to either side. ``map`` knows the
spread of the samples, ``map of one`` does not. Coverage is the share of body voxels, above -950 HU in the truth, whose
true value lies in the interval. In latent space the spread is compared with the error of the samples' mean.

Films of scans are rendered as by ``benchmarks.real_scans``; with ``--imperfect`` they are measured as rooms make them,
too, and aligned. Writes ``benchmarks/results/spread_<name>.json``.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from benchmarks.common import save
from benchmarks.real_scans import IDEAL, TOGETHER, Films, Reduced, edge_of
from dvg_jax.calibration import SHARES, Calibration, covered, ray_support
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_source
from dvg_jax.ct.intensity import hu_to_intensity, intensity_to_hu
from dvg_jax.data.sources import PreparedSource
from dvg_jax.diffusion import sample
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import build_procedure, case_batches
from dvg_jax.evaluate.stress import Moved, Trial
from dvg_jax.latents import latent_shape
from dvg_jax.metrics import psnr_volume
from dvg_jax.metrics.tables import align
from dvg_jax.metrics.tissue import AIR_LIMIT
from dvg_jax.reconstruct.reconstructor import Reconstructor, load_reconstructor, sample_keys
from dvg_jax.shapes import Key, VariablesByStage
from dvg_jax.training.compilation import enable_compilation_cache

NOISE = 0.01
"""Films of scans have noise of this standard deviation, of a film in [0, 1], as in ``benchmarks.real_scans``."""

Case = tuple[np.ndarray, np.ndarray]
"""It is a CT (D, H, W) and its films (V, h, w), both in [0, 1]."""

Samples = Float[np.ndarray, "K D H W"]
Truth = Float[np.ndarray, "D H W"]

Figures = dict[str, float]
"""It holds coverage in per cent by nominal share and half the width of 90 % in HU; for samples also the error over the
spread and the PSNR of one and of their mean in dB; of latents root mean squares."""


def figures_of(samples: Samples, truth: Truth) -> Figures:
    """Compare the samples of one case with its truth, in HU; error and spread are root mean squares over the body."""
    body = truth > AIR_LIMIT
    error = np.abs(samples.mean(axis=0) - truth)[body]
    spread = samples.std(axis=0, ddof=1)[body]
    deviations = {share: NormalDist().inv_cdf(0.5 + share / 200) for share in SHARES}
    found = {f"{share} %": 100 * float(np.mean(error < z * spread)) for share, z in deviations.items()}
    found["half width of 90 %, HU"] = deviations[90] * float(spread.mean())
    found["error / spread"] = float(np.sqrt(np.mean(error**2) / np.mean(spread**2)))
    for name, ct in (("PSNR", samples[0]), ("PSNR of the mean", samples.mean(axis=0))):
        found[name] = float(psnr_volume(hu_to_intensity(jnp.asarray(truth)), hu_to_intensity(jnp.asarray(ct))))
    return found


def latent_figures(dvg: DVG, variables: VariablesByStage, case: Case, keys: Key) -> Figures:
    """Compare samples of g_theta with the latent that they stand for, standardised per channel."""
    ct, films = (jnp.asarray(x)[None, ..., None] for x in case)
    condition = dvg.condition(variables, films, dvg.angles)
    many = tuple(jnp.broadcast_to(block, (len(keys), *block.shape[1:])) for block in condition)
    shape = latent_shape(dvg.ct_vqgan, (len(keys), *dvg.geometry.volume_shape))
    learned = variables["diffusion"]
    z = sample(dvg.denoiser, (learned["params"], many), keys, shape, dvg.schedule, dvg.sampler)
    error = jnp.mean(z, axis=0) - dvg.target(learned, condition, dvg.ct_latent(variables, ct))[0]
    scale = learned["statistics"]["std"] if dvg.residual else 1.0
    spread = jnp.std(z, axis=0, ddof=1)
    return {name: float(jnp.sqrt(jnp.mean((scale * x) ** 2))) for name, x in (("spread", spread), ("error", error))}


def figures_of_map(model: Reconstructor, found: Calibration, samples: Samples, truth: Truth) -> dict[str, Figures]:
    """Compare the bounds of the first sample with its error, with the spread of the samples and without it, in HU."""
    support = ray_support(model.dvg.angles, model.dvg.geometry)
    figures = {}
    for name, spread in (("map", samples.std(axis=0, ddof=1)), ("map of one", None)):
        bounds = found.bounds(samples[0], support, spread)
        own = covered(bounds, samples[0], truth, truth > AIR_LIMIT)
        figures[name] = {f"{share} %": own[f"covered_{share}"] for share in SHARES}
        figures[name]["half width of 90 %, HU"] = own["half_width_90_hu"]
    return figures


def cases_of(model: Reconstructor, cases: int) -> Iterator[Case]:
    """Yield the first unseen cases of the model's own source."""
    procedure = replace(build_procedure(model.config), cases=cases, batch_size=1)
    for batch in case_batches(build_source(model.config, "test"), procedure):
        films = model.dvg.render(batch.truth, model.dvg.angles)
        yield np.asarray(batch.truth)[0, ..., 0], np.asarray(films)[0, ..., 0]


def scans_of(model: Reconstructor, scans: Path, split: str, trial: Trial = IDEAL) -> Iterator[Case]:
    """Yield all scans of a split; their films are rendered from the finer grid of the scans, with noise.

    Films that have more wrong than that are aligned, and the patient is where they show him.
    """
    dvg, size = model.dvg, edge_of(scans, model.config.size)
    fine = Moved(PreparedSource(scans, split, size), trial, model.config.seed)
    render, reduced = Films(model.config, dvg, size, NOISE, trial), Reduced(fine, model.config.size)
    for i in range(len(fine)):
        films = render(jnp.asarray(fine[i]["ct"])[None], jax.random.key(i))
        if trial.imperfections:
            films = dvg.align(model.variables, films, dvg.angles, jax.random.key(i)).films
        yield np.asarray(reduced[i]["ct"])[..., 0], np.asarray(films)[0, ..., 0]


def measured(model: Reconstructor, cases: Iterator[Case], samples: int) -> dict[str, list[Figures]]:
    """Return the figures of each case: of latents, by mode of consistency and, where it is calibrated, by map."""
    modes = [mode for mode in ("none", "films", "refine") if mode != "refine" or "refine" in model.variables]
    found: dict[str, list[Figures]] = {}
    for ct, films in cases:
        latent = latent_figures(model.dvg, model.variables, (ct, films), sample_keys(0, samples))
        found.setdefault("latent", []).append(latent)
        for mode in modes:
            drawn = model.samples(films, model.dvg.angles, sample_keys(0, samples), consistency=mode)
            hu, truth = intensity_to_hu(drawn), intensity_to_hu(ct)
            rows = {mode: figures_of(hu, truth)}
            if isinstance(own := model.calibration(model.dvg.angles, consistency=mode), Calibration):
                rows |= {f"{mode}, {name}": row for name, row in figures_of_map(model, own, hu, truth).items()}
            for name, row in rows.items():
                found.setdefault(name, []).append(row)
    return found


def table(found: dict[str, dict[str, list[Figures]]]) -> str:
    """Return the means over cases as lines of a table."""
    sets = [(name, mode, rows) for name, modes in found.items() for mode, rows in modes.items()]
    names = list(dict.fromkeys(x for _, _, rows in sets for x in rows[0]))
    body = [
        [n, m, *(f"{np.mean([row[x] for row in rows]):.4g}" if x in rows[0] else "" for x in names)]
        for n, m, rows in sets
    ]
    return align([["cases", "interval", *names], *body])


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.spread")
    parser.add_argument("--workdir", type=Path, required=True, help="a trained folder")
    parser.add_argument("--scans", type=Path, help="folder by dvg_jax.data.prepare; measured too")
    parser.add_argument("--split", default="test", help="of it: train, val, test or all (default %(default)s)")
    parser.add_argument(
        "--cases", type=int, default=16, help="unseen cases of the model's source (default %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=8, help="drawn for each case (default %(default)s)")
    parser.add_argument("--sampler", help="ancestral, ddim or dpmpp_2m (default: the model's)")
    parser.add_argument("--steps", type=int, help="of sampling (default: the model's)")
    parser.add_argument("--imperfect", action="store_true", help="also films as rooms make them, of --scans")
    parser.add_argument("--name", default="cpu", help="of the results file (default %(default)s)")
    options = parser.parse_args(argv)
    if options.imperfect and options.scans is None:
        raise UserError("--imperfect is given without --scans; allowed: with the folder of scans whose films they are")
    enable_compilation_cache()
    model = load_reconstructor(options.workdir)
    model.dvg = replace(model.dvg, sampler=model.sampler(options.steps, options.sampler))
    found = {"unseen": measured(model, cases_of(model, options.cases), options.samples)}
    if options.scans:
        found["scans"] = measured(model, scans_of(model, options.scans, options.split), options.samples)
    if options.imperfect:
        aligned = scans_of(model, options.scans, options.split, TOGETHER)
        found["scans, imperfect films aligned"] = measured(model, aligned, options.samples)
    print(table(found))
    print(save(f"spread_{options.name}", found))


if __name__ == "__main__":
    run_command(main)
