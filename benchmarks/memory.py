"""Plan the memory of every training step and of the blocks of a reconstruction, for a GPU that need not be there.

    python -m benchmarks.memory [--target rtx4090] [--size 128] [--stages ct_vqgan ...] [--blocks decoder ...]
    python -m benchmarks.memory --devices 8 --size 32 --blocks

The GPU's own compiler plans it, for the paper's networks and batch of 2, with critics and LPIPS at work; nothing is
run: see ``benchmarks.gpu_plan`` for what must be installed. A plan counts weights, moments, inputs, results and all
that lies in between. It counts neither the GPU's context (about 0.5 GiB) nor the workspace of cuDNN, nor what the
allocator leaves unused. Rows that the JSON has from earlier calls are kept.

With ``--devices`` a step takes one case a device, and the collectives that XLA puts in are listed. GB are those of one
device: the larger of what it gives and what it gets.
"""

import json
from typing import Any

from benchmarks.common import RESULTS, save
from benchmarks.gpu_plan import tables
from benchmarks.gpu_plan.compiling import compiled
from benchmarks.gpu_plan.hlo import parse
from benchmarks.gpu_plan.kernels import kernels
from benchmarks.gpu_plan.programs import Case, lower
from benchmarks.gpu_plan.targets import TARGETS, Target, compile_only, devices
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.rules import Number
from dvg_jax.config import PAPER_STAGES

MANNERS = {
    "float32": {"dtype": "float32"},
    "float32, remat": {"dtype": "float32", "remat": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, remat": {"dtype": "bfloat16", "remat": True},
}
"""It maps each variant's name to its settings; ``remat`` recomputes blocks of the stage's own network."""

BLOCKS = ("encoder", "decoder", "g_theta")

ROWS = (1, 4)
"""Cases of one reconstruction."""


def measured(program: str, case: Case, target: Target, count: int = 1) -> dict[str, Any]:
    """Return the GiB that a program is planned to take on each device, and its collectives.

    Args:
      program: its name in ``benchmarks.gpu_plan.programs``.
      case: its variant.
      target: the GPU.
      count: GPUs of one host.
    """
    name = f"{program}, {count} devices" if count > 1 else program
    made = compiled(lower(program, case, devices(target, count)), name, target)
    return {**made.memory, "collectives": tables.collectives(kernels(parse(made.text)))}


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.memory")
    whole = number(Number(1, whole=True))
    parser.add_argument("--target", choices=tuple(TARGETS), default="rtx4090", help="default %(default)s")
    parser.add_argument("--size", type=whole, default=128, help="voxels an axis (default %(default)s)")
    parser.add_argument("--stages", nargs="*", choices=PAPER_STAGES, default=PAPER_STAGES, help="training steps")
    parser.add_argument("--blocks", nargs="*", choices=BLOCKS, default=BLOCKS, help="of a reconstruction, on one GPU")
    parser.add_argument("--manners", nargs="*", choices=MANNERS, default=tuple(MANNERS), help="variants")
    parser.add_argument("--devices", type=whole, default=1, help="GPUs of one host (default 1)")
    parser.add_argument("--split", action="store_true", help="store the training state in shares on the devices")
    options = parser.parse_args(argv)
    target, count = TARGETS[options.target], options.devices
    name = f"memory_{target.name}"
    path = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    rows = results.setdefault(f"{options.size}^3", {})
    print("| what | variant | GiB at the peak | of which held | collectives |\n|---|---|---|---|---|")

    def row(what: str, manner: str, program: str, case: Case) -> None:
        found = measured(program, case, target, count)
        rows.setdefault(what, {})[manner] = found
        exchanged = (f"{n['count']} {kind}, {n['gb']:.2f} GB" for kind, n in found["collectives"].items())
        figures = f"{found['peak_gib']:.2f} | {found['held_gib']:.2f} | {'; '.join(exchanged) or 'none'}"
        print(f"| {what} | {manner} | {figures} |", flush=True)
        save(name, results, RESULTS)

    several = f", {count} GPUs" + (", split" if options.split else "") if count > 1 else ""
    for stage in options.stages:
        for manner in options.manners:
            case = Case(options.size, batch=count if count > 1 else None, split=options.split, **MANNERS[manner])
            row(f"training step of {stage}{several}", manner, f"{stage} step", case)
    for block in options.blocks if count == 1 else ():
        for cases in ROWS:
            for dtype in ("float32", "bfloat16"):
                row(f"{block}, {cases} at once", dtype, block, Case(options.size, dtype, batch=cases))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    compile_only()
    run_command(main)
