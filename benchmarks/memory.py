"""What a training step, and each block of a reconstruction, needs at its peak: as XLA plans it, nothing is run.

    python -m benchmarks.memory [--size 128] [--stages ct_vqgan ...] [--blocks decoder ...]

The paper's networks and batch of 2, critics at work, from shapes alone. A plan counts weights, moments, inputs, results
and all that lies in between, not the GPU's context (about 0.5 GiB) or what the allocator leaves unused. Without a GPU
the same program is planned for the CPU with the GPU's convolutions (``native``), whose library there may want more.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import save
from benchmarks.full_size import random_variables
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config import PAPER_STAGES, VQGANS, default_config
from dvg_jax.config.build import build_dvg
from dvg_jax.latents import decode, encode, latent_shape
from dvg_jax.networks import convolution
from dvg_jax.stages import build_stage
from dvg_jax.training.examples import made_ahead
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update

MANNERS = {
    "float32": {},
    "float32, remat": {"remat": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, remat": {"dtype": "bfloat16", "remat": True},
}
"""What is set of the config by name; ``remat`` is that of the stage's own network."""

BLOCKS = ("encoder", "decoder", "g_theta")

ROWS = (1, 4)
"""Cases of one reconstruction."""

SMALL = (16, 16, 16)
"""Of the volume from whose shape a state is made: what is learned does not depend on the volume's size."""

CPU_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""A CPU's compiler takes away early what keeps rematerialised values apart, and finds them to be the same: there
``remat`` would save nothing. A GPU's does so late."""

GIB = 2**30


def training_step(stage_name: str, size: int, dtype: str = "float32", remat: bool = False) -> dict[str, float]:
    """The plan of a stage's training step with the paper's batch."""
    config = default_config()
    config.size, config.dtype = size, dtype
    config[stage_name].network.remat = remat
    if stage_name in VQGANS:
        config[stage_name].loss.gan_start = 0
    dvg = build_dvg(config)
    stage, training = build_stage(stage_name, config, dvg), Training(**config[stage_name].train)
    key = jax.random.key(0)
    ct = _shape((training.batch_size, *dvg.geometry.volume_shape, 1))
    frozen = {name: value for name, value in random_variables(dvg).items() if name in stage.requires}
    example = jax.eval_shape(lambda ct: stage.prepare(frozen, ct, key), ct)
    small = jax.tree.map(lambda x: jnp.zeros((x.shape[0], *SMALL, x.shape[-1])), example)
    step, batch = Step(stage.task, training.recipe), example
    if not made_ahead(config, stage):
        step, batch = replace(step, prepare=stage.prepare), {"ct": ct}
    state = create(step, key, small)
    fixed = Fixed(frozen if step.prepare else {}, stage.task.constants(frozen), key)
    return plan(lambda: update.lower(step, state, fixed, batch, _shape(())))


def block(name: str, size: int, rows: int, dtype: str) -> dict[str, float]:
    """The plan of one block of the picture in ``dvg.py`` for so many cases."""
    config = default_config()
    config.size, config.dtype = size, dtype
    dvg = build_dvg(config)
    variables = random_variables(dvg)
    latent = _shape(latent_shape(dvg.ct_vqgan, (rows, *dvg.geometry.volume_shape)))
    volume, t = _shape((rows, *dvg.geometry.volume_shape, 1)), _shape((rows,), jnp.int32)
    denoise = jax.jit(dvg.denoiser.predict)
    lowered = {
        "encoder": lambda: encode.lower(dvg.view_vqgan, variables["view_vqgan"], volume),
        "decoder": lambda: decode.lower(dvg.ct_vqgan, True, variables["ct_vqgan"], latent),
        "g_theta": lambda: denoise.lower((variables["diffusion"]["params"], (latent, latent)), latent, t),
    }
    return plan(lowered[name])


def plan(lower: Callable[[], Any]) -> dict[str, float]:
    """GiB at the peak of a lowered program and of its parts, and the seconds of its compilation."""
    start = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    found = lowered.compile(compiler_options=options).memory_analysis()
    if found is None:
        raise SystemExit("this backend does not tell what it plans")
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "peak_gib": (held + found.temp_size_in_bytes) / GIB,
        "held_gib": held / GIB,
        "between_gib": found.temp_size_in_bytes / GIB,
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
    }


def _shape(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.memory")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--stages", nargs="*", choices=PAPER_STAGES, default=PAPER_STAGES)
    parser.add_argument("--blocks", nargs="*", choices=BLOCKS, default=BLOCKS)
    parser.add_argument("--manners", nargs="*", choices=MANNERS, default=tuple(MANNERS))
    options = parser.parse_args(argv)
    # Planned as a GPU's program, whatever plans it.
    convolution.is_sliced = lambda form: False
    results: dict[str, Any] = {"size": options.size}
    print("| what | manner | GiB at the peak | of which held | compilation, s |\n|---|---|---|---|---|")

    def row(what: str, manner: str, found: dict[str, float]) -> None:
        results.setdefault(what, {})[manner] = found
        figures = f"{found['peak_gib']:.1f} | {found['held_gib']:.1f} | {found['trace_s'] + found['compile_s']:.0f}"
        print(f"| {what} | {manner} | {figures} |", flush=True)

    for stage in options.stages:
        for manner in options.manners:
            row(f"training step of {stage}", manner, training_step(stage, options.size, **MANNERS[manner]))
    for name in options.blocks:
        for rows in ROWS:
            for dtype in ("float32", "bfloat16"):
                row(f"{name}, {rows} at once", dtype, block(name, options.size, rows, dtype))
    print(f"\nwritten: {save(f'memory_{jax.default_backend()}', results)}")


if __name__ == "__main__":
    run_command(main)
