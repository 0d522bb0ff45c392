"""What keeping the frozen stages' latents saves: steps of the diffusion stage with and without.

    python -m benchmarks.latent_cache [--scale tiny small paper] [--steps 20]

Random weights. One batch is trained on again and again: without the cache its CTs pass the frozen stages at every
step, with it they are read from the file. Steps of both kinds take turns. Losses must be the same bits.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.common import save
from benchmarks.full_size import random_variables
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import SCALES
from dvg_jax.stages import build_stage
from dvg_jax.stages.base import Example
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.loop import StageRun
from dvg_jax.training.state import create

WARM_UPS = 2


def contest(scale: str, steps: int) -> dict[str, Any]:
    """Median seconds of a step with and without, their ratio, and whether all losses are equal."""
    config = SCALES[scale]()
    config.data.update({"train_count": config.diffusion.train.batch_size, "test_count": 1})
    dvg = build_dvg(config)
    frozen = random_variables(dvg)
    del frozen["diffusion"]
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    losses: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for kind in seconds:
            config.diffusion.train.cache = kind == "with"
            stage_run = StageRun(config, build_stage("diffusion", config, dvg), frozen, Path(folder))
            runs[kind] = _steps(stage_run)
        for _ in range(steps + WARM_UPS):
            for kind, stepping in runs.items():
                start = time.perf_counter()
                losses[kind].append(float(next(stepping)))
                seconds[kind].append(time.perf_counter() - start)
    medians = {kind: statistics.median(found[WARM_UPS:]) for kind, found in seconds.items()}
    return {
        "size": config.size,
        "batch": config.diffusion.train.batch_size,
        "seconds": medians,
        "times as fast": medians["without"] / medians["with"],
        "same losses, bit for bit": losses["with"] == losses["without"],
        "losses": [losses["with"][0], losses["with"][-1]],
    }


def _steps(stage_run: StageRun) -> Iterator[jax.Array]:
    """The losses of one step after the other; each does what a step of the loop does, on the same cases."""
    examples = stage_run.examples()
    program, fixed = stage_run._program(examples)

    def rows() -> Example:
        batch = next(examples.in_order(stage_run.training.batch_size))
        return {name: value for name, value in batch.items() if name not in ("mask", "index")}

    state = create(program, stage_run.key, rows())
    while True:
        state, metrics = stage_run._step(program, fixed, state, rows())
        yield metrics["loss"]


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.latent_cache")
    parser.add_argument("--scale", nargs="+", choices=SCALES, default=["tiny"])
    parser.add_argument("--steps", type=int, default=20, help="of each kind, after warming up")
    options = parser.parse_args(argv)
    enable_compilation_cache()
    results = {scale: contest(scale, options.steps) for scale in options.scale}
    print("| size | batch | with, ms | without, ms | times as fast | same losses |\n|---|---|---|---|---|---|")
    for found in results.values():
        ms = " | ".join(f"{1000 * s:.0f}" for s in found["seconds"].values())
        same = "yes, bit for bit" if found["same losses, bit for bit"] else "no"
        print(f"| {found['size']}^3 | {found['batch']} | {ms} | {found['times as fast']:.1f} | {same} |")
    print(f"\nwritten: {save(f'latent_cache_{jax.default_backend()}', results)}")


if __name__ == "__main__":
    run_command(main)
