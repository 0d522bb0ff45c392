"""Measure seconds and memory of making CTs agree with their films: the fit, the refiner, a training step of it.

    python -m benchmarks.agreement [--sizes 32 64 128] [--dtype float32 bfloat16] [--repeats 5]

Two views at 0 and 90 degrees, one CT, the refiner at its default width with random weights: times do not depend on
them. Memory is what XLA plans for the compiled program: temporaries, arguments and results. Writes
``benchmarks/results/agreement_<name>.json``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import save, seconds_of
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config import default_config
from dvg_jax.config.build import build_dvg
from dvg_jax.consistency import fit_films
from dvg_jax.data.phantom import chest
from dvg_jax.metrics.tables import align
from dvg_jax.stages import build_stage
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update

MIB = 2**20


def cases(size: int, dtype: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return functions and their arguments by name, at one size and compute type."""
    config = default_config()
    config.size, config.geometry, config.dtype = size, "covering", dtype
    config.consistency.mode = "refine"
    dvg = build_dvg(config)
    start, truth = (chest(jax.random.key(i), size)[None, ..., None] for i in (0, 1))
    views = dvg.render(truth, dvg.angles)
    stage = build_stage("refine", config, dvg)
    example = {"ct": truth, "views": views, "starts": start[:, None]}
    step = Step(stage.task, Training(**config.refine.train).recipe)
    state, fixed = create(step, jax.random.key(2), example), Fixed({}, {}, jax.random.key(3))
    params = jax.tree.map(jnp.copy, state.params["model"])  # a step donates the state

    def fit(ct: jax.Array, views: jax.Array) -> jax.Array:
        return fit_films(dvg.projector, dvg.geometry, ct, views, dvg.angles, dvg.fit)

    def refine(params: Any, ct: jax.Array, views: jax.Array) -> jax.Array:
        return dvg.refine(params, ct, views, dvg.angles)[-1]

    def train(state: Any) -> Any:
        return update(step, jax.tree.map(jnp.copy, state), fixed, example, jnp.float32(1e-3))

    return {
        "fit": (fit, (start, views)),
        "refiner": (refine, (params, start, views)),
        "training step": (train, (state,)),
    }


def measured(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> dict[str, float]:
    """Return seconds of the first call of the compiled program and of the fastest, and MiB."""
    program = jax.jit(function).lower(*arguments).compile()
    first = seconds_of(lambda: jax.block_until_ready(program(*arguments)))
    seconds = min(seconds_of(lambda: jax.block_until_ready(program(*arguments))) for _ in range(repeats))
    plan = program.memory_analysis()
    memory = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return {"first": first, "seconds": seconds, "mib": memory / MIB}


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.agreement")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64, 128])
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="cpu", help="of the results file (default %(default)s)")
    options = parser.parse_args(argv)
    found: dict[str, dict[str, float]] = {}
    for size in options.sizes:
        for dtype in options.dtype:
            for name, (function, arguments) in cases(size, dtype).items():
                found[f"{name}, {size}, {dtype}"] = measured(function, arguments, options.repeats)
    body = [[*label.split(", "), f"{f['seconds']:.4f}", f"{f['mib']:.0f}"] for label, f in found.items()]
    print(align([["what", "size", "type", "seconds", "MiB"], *body]))
    print(save(f"agreement_{options.name}", found))


if __name__ == "__main__":
    run_command(main)
