"""Ask one GPU in a few minutes how fast the published sizes are, and whether it computes what a CPU does.

    python -m benchmarks.on_gpu [--output results] [--minutes 8] [--size 128] [--only env forward ...]
    python -m benchmarks.on_gpu --carry FOLDER

The steps run in the order of their worth, each in a process of its own with a limit of its own. A step that fails or
is late does not take the results of others, and one that no longer fits into the minutes is skipped. ``on_gpu.json``
says so; it is written anew after each step. ``on_gpu.jsonl`` gets each result as a line once it is there. ``train``
trains the CT's VQGAN for the minutes that are left. Below 32 voxels the networks are the demo's, since the published
U-Net takes no such volumes. A dry run on a CPU: ``--size 16``.

``--carry`` writes a folder that a machine without a network needs beside the repository; its README.md says how.
"""

from pathlib import Path

from benchmarks.on_gpu.budget import Budget
from benchmarks.on_gpu.plan import DEFAULT, STEPS, Shared
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.rules import Number


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    options = _parser().parse_args(argv)
    if options.carry:
        from benchmarks.on_gpu import carry  # loads JAX, which the run itself leaves to its steps

        print(carry.write(options.carry))
        return
    shared = Shared(options.size, options.dtype)
    kept = options.kept or options.output / "kept"
    print(f"written: {Budget(options.output, kept, shared, 60 * options.minutes).run(options.only)}")


def _parser() -> Parser:
    parser = Parser(__doc__, "python -m benchmarks.on_gpu")
    whole = number(Number(1, whole=True))
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--output", type=Path, default=Path("runs/on_gpu"), help="folder for on_gpu.json and on_gpu.jsonl (%(default)s)"
    )
    where.add_argument("--carry", type=Path, help="write the folder that a bare machine needs, and end")
    parser.add_argument("--kept", type=Path, help="folder for compiled programs, logs and the training (OUTPUT/kept)")
    parser.add_argument(
        "--minutes", type=number(Number(0, open_low=True)), default=8, help="in all (default %(default)s)"
    )
    parser.add_argument("--size", type=whole, default=128, help="voxels an axis (default %(default)s)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default %(default)s")
    parser.add_argument("--only", nargs="+", choices=tuple(STEPS), default=DEFAULT, help="these steps, in this order")
    return parser


if __name__ == "__main__":
    run_command(main)
