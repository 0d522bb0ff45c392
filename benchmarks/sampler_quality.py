"""How few steps each sampler needs: quality and time of a trained folder at 100 to 3 steps.

    python -m benchmarks.sampler_quality --workdir runs/demo [--cases 32]
    python -m benchmarks.sampler_quality --workdir runs/demo --time

Unseen cases of the folder's data. All samplers and step counts start from the same noise and see the same condition,
which is made once a case; the figures are those of ``evaluate.py``. ``--time`` measures one reconstruction from films
to CT instead. Each writes its own part of ``benchmarks/results/sampler_quality_<backend>.json``.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.common import RESULTS, finished, save, side_by_side, surroundings
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_source
from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.diffusion import sample
from dvg_jax.diffusion.samplers import SAMPLERS
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import build_procedure, case_batches
from dvg_jax.latents import latent_shape
from dvg_jax.metrics.bootstrap import mean_interval
from dvg_jax.reconstruct.reconstructor import Reconstructor, load_reconstructor
from dvg_jax.training.compilation import enable_compilation_cache

STEPS = (100, 50, 20, 10, 8, 5, 3)
FIGURES = ("psnr", "ssim", "lpips", "moved_hu")
"""Of ``evaluate.py``, and how far the CT lies from the same sampler's at the most steps: root mean square in HU."""

LOSS_DB = 0.1
"""What counts as no worse, in mean PSNR."""

PAPER = "ancestral"
"""The sampler of the paper, which all are compared with at the most steps."""

Figures = dict[str, dict[str, list[float]]]
"""Figure by figure, a value a case; by ``sampler, steps``."""

Summary = dict[str, dict[str, Any]]
"""The same in means."""


def allowed_steps(model: Reconstructor) -> list[int]:
    """The step counts that the model's schedule has."""
    return [steps for steps in STEPS if steps <= model.dvg.schedule.timesteps]


def quality(model: Reconstructor, cases: int) -> Figures:
    """The figures of every sampler and step count on the first unseen ``cases``."""
    config, dvg, variables = model.config, model.dvg, model.variables
    procedure, source = replace(build_procedure(config), cases=cases), build_source(config, "test")
    batch, root = procedure.batch_size, jax.random.key(config.seed)
    chosen = {f"{name}, {n}": model.sampler(n, name) for name in SAMPLERS for n in allowed_steps(model)}
    figures: Figures = {label: {figure: [] for figure in FIGURES} for label in chosen}
    for numbers, _, truth, _ in tqdm(case_batches(source, procedure), total=-(-cases // batch)):
        condition = dvg.condition(variables, dvg.render(truth, dvg.angles), dvg.angles)
        arguments = (variables["diffusion"]["params"], condition)
        keys = jnp.stack([jax.random.fold_in(root, numbers[0] + i) for i in range(batch)])
        shape = latent_shape(dvg.ct_vqgan, truth.shape[:4])
        most: dict[str, jax.Array] = {}
        for label, sampler in chosen.items():
            z = sample(dvg.denoiser, arguments, keys, shape, dvg.schedule, sampler)
            ct = dvg.finish(dvg.decode(variables, z))
            end = most.setdefault(sampler.name, ct)
            for i in range(len(numbers)):
                found = procedure.measures.volume(truth[i, ..., 0], ct[i, ..., 0])
                found["moved_hu"] = HU_RANGE * float(jnp.sqrt(jnp.mean((ct[i] - end[i]) ** 2)))
                for figure in FIGURES:
                    figures[label][figure].append(found[figure])
    return figures


def times(model: Reconstructor, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of one reconstruction, films to CT, by sampler and steps."""
    dvg = model.dvg
    procedure = replace(build_procedure(model.config), cases=1, batch_size=1)
    truth = next(case_batches(build_source(model.config, "test"), procedure)).truth
    films = np.asarray(dvg.render(truth, dvg.angles)[0, ..., 0])
    key = jax.random.key(0)

    def call(name: str, steps: int) -> Callable[[], Any]:
        return finished(lambda: model(films, dvg.angles, key, steps, name))

    contestants = {f"{name}, {n}": call(name, n) for name in SAMPLERS for n in allowed_steps(model)}
    return side_by_side(contestants, repeats)


def summary(figures: Figures) -> Summary:
    """Means over cases, and the paired difference in PSNR to the paper's sampler at the most steps."""
    paper = np.array(figures[f"{PAPER}, {_most(figures)}"]["psnr"])
    return {
        label: {figure: float(np.mean(values)) for figure, values in found.items()}
        | {"gain": mean_interval(np.array(found["psnr"]) - paper, range(len(paper)))}
        for label, found in figures.items()
    }


def fewest(means: Summary, name: str, beside: str) -> int | None:
    """The fewest steps from which on a sampler's mean PSNR is at most ``LOSS_DB`` under that of ``beside`` at the most
    steps."""
    most = _most(means)
    bound = means[f"{beside}, {most}"]["psnr"] - LOSS_DB
    enough = [n for n in STEPS if n <= most and means[f"{name}, {n}"]["psnr"] >= bound]
    # Steps are in falling order: a count that is enough by chance, under one that is not, does not count.
    together = [n for n, wanted in zip(enough, (n for n in STEPS if n <= most), strict=False) if n == wanted]
    return together[-1] if together else None


def table(means: Summary, seconds: dict[str, dict[str, float]]) -> str:
    """Markdown: means, the difference to the paper's sampler with its interval, milliseconds."""
    most = _most(means)
    beside = f"beside {PAPER}, {most} [95 % interval]"
    lines = [f"| sampler | steps | PSNR | {beside} | SSIM | LPIPS | HU beside its own {most} | ms |", "|" + "---|" * 8]
    for label, found in means.items():
        name, steps = label.split(", ")
        gain, low, high = found["gain"]
        ms = f"{1000 * seconds[label]['median']:.0f}" if label in seconds else ""
        beside = f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]"
        cells = f"{found['psnr']:.2f} | {beside} | {found['ssim']:.3f} | {found['lpips']:.4f} | {found['moved_hu']:.1f}"
        lines.append(f"| {name} | {steps} | {cells} | {ms} |")
    lines += ["", f"| sampler | fewest steps within {LOSS_DB} dB of its own {most} | of {PAPER}, {most} |"]
    lines.append("|" + "---|" * 3)
    for name in SAMPLERS:
        own, of_paper = (fewest(means, name, beside) or "none" for beside in (name, PAPER))
        lines.append(f"| {name} | {own} | {of_paper} |")
    return "\n".join(lines)


def _most(by_label: dict[str, Any]) -> int:
    return max(int(label.split(", ")[1]) for label in by_label)


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.sampler_quality")
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument("--cases", type=int, default=32, help="unseen cases")
    parser.add_argument("--time", action="store_true", help="measure the time instead of the quality")
    parser.add_argument("--repeats", type=int, default=3, help="of the times")
    options = parser.parse_args(argv)
    enable_compilation_cache()
    model = load_reconstructor(options.workdir)
    if not model.config.evaluate.lpips:
        raise UserError("config.evaluate.lpips is empty; allowed: a folder trained with vgg or alex there")
    name = f"sampler_quality_{jax.default_backend()}"
    path = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    if options.time:
        results["time"] = {"seconds": times(model, options.repeats), **surroundings()}
    else:
        figures = quality(model, options.cases)
        measured = {"cases": options.cases, "lpips": model.config.evaluate.lpips, "model": model.fingerprint}
        results["quality"] = {**measured, "means": summary(figures), **surroundings()}
    save(name, results)
    if "quality" in results:
        print(table(results["quality"]["means"], results.get("time", {}).get("seconds", {})))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    run_command(main)
