"""Compile programs of training and reconstruction for an NVIDIA GPU, without one, and say what it would do.

    python -m benchmarks.gpu_plan [--target h100] [--programs decoder ...] [--size 128] [--dtype bfloat16]
    python -m benchmarks.gpu_plan --programs decoder --by kind --windows
    python -m benchmarks.gpu_plan --hlo build/gpu_plan/FILE.hlo.gz --by name

It needs JAX's plugin for CUDA: pip install "jax[cuda12]", 5.5 GB, in an environment of its own where there is no GPU.
One program takes up to ten minutes on a CPU core; its text is kept in build/gpu_plan and read again by the next call.
"Roof" is the sum over kernels of the longer of FLOP / peak and bytes / bandwidth: no kernel can be faster. Times, the
algorithms that cuDNN chooses and its workspace are known on a GPU only.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, save
from benchmarks.gpu_plan import compiling, programs, tables
from benchmarks.gpu_plan.hlo import parse
from benchmarks.gpu_plan.kernels import kernels
from benchmarks.gpu_plan.targets import TARGETS, compile_only, devices
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.rules import Number
from dvg_jax.errors import UserError

DEFAULT = tuple(name for name in programs.PROGRAMS if name not in ("view_vqgan step", "new_view_vqgan step"))
"""The other two VQGANs' steps are nearly the first one's."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    options = _parser().parse_args(argv)
    target = TARGETS[options.target]
    if options.hlo:
        print(tables.HEAD)
        for file in options.hlo:
            _report(file.name.removesuffix(".gz").removesuffix(".hlo"), compiling.stored(file), options)
        return
    case = programs.Case(options.size, options.dtype, options.remat, options.batch, options.split)
    flags = dict(_flag(text) for text in options.flags)
    on = devices(target, options.devices)
    print(tables.HEAD)
    name = options.results or f"gpu_plan_{target.name}"
    path = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    rows = results.setdefault(_manner(options), {})
    for program in options.programs:
        made = compiling.compiled(programs.lower(program, case, on), program, target, flags)
        rows[program] = _report(program, made, options)
        save(name, results, RESULTS)
    print(f"\nwritten: {path}")


def _report(name: str, made: compiling.Compiled, options: argparse.Namespace) -> dict[str, Any]:
    """Print a program's row and the tables that were asked for; return its figures."""
    target = TARGETS[options.target]
    found = tables.plan(made, target)
    print(tables.row(name, found), flush=True)
    listed = kernels(parse(made.text))
    asked = [tables.groups_table(listed, target, by, options.top) for by in options.by]
    asked += [tables.windows_table(listed, target)] if options.windows else []
    for table in asked:
        print(f"\n{name} ({made.file}):\n\n{table}\n", flush=True)
    if exchanged := tables.collectives(listed):
        found["collectives"] = exchanged
        for kind, sums in exchanged.items():
            print(f"{kind}: {sums['count']}, {sums['gb']:.3f} GB", flush=True)
    return found


def _manner(options: argparse.Namespace) -> str:
    """Name the variant that a call has asked for."""
    words = [f"{options.size}^3", options.dtype, *options.flags]
    words += ["remat"] if options.remat else []
    words += [f"batch {options.batch}"] if options.batch else []
    words += [f"{options.devices} devices"] if options.devices > 1 else []
    return ", ".join([*words, *(["split"] if options.split else [])])


def _flag(text: str) -> tuple[str, str]:
    name, equals, value = text.removeprefix("--").partition("=")
    if not equals or not name.startswith("xla_"):
        raise UserError(f"--flags is {text}; allowed: xla_NAME=VALUE, several with spaces between")
    return name, value


def _parser() -> Parser:
    parser = Parser(__doc__, "python -m benchmarks.gpu_plan")
    whole = number(Number(1, whole=True))
    names = tuple(programs.PROGRAMS)
    parser.add_argument("--target", choices=tuple(TARGETS), default="h100", help="default %(default)s")
    parser.add_argument("--programs", nargs="+", choices=names, default=DEFAULT, help=f"of {', '.join(names)}")
    parser.add_argument("--size", type=whole, default=128, help="voxels an axis (default %(default)s)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default %(default)s")
    parser.add_argument("--batch", type=whole, help="rows (default: the config's in training, else 1)")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--devices", type=whole, default=1, help="of one host, for training steps (default 1)")
    parser.add_argument("--split", action="store_true", help="store the training state in shares on the devices")
    parser.add_argument("--flags", nargs="+", default=(), metavar="xla_NAME=VALUE", help="flags of XLA")
    parser.add_argument("--by", nargs="+", choices=tables.GROUPINGS, default=(), help="also print sums by these")
    parser.add_argument("--top", type=whole, default=30, help="groups in those tables (default %(default)s)")
    parser.add_argument("--windows", action="store_true", help="also print the windows of all convolutions")
    parser.add_argument("--hlo", nargs="+", type=Path, help="read these stored texts, and compile nothing")
    parser.add_argument("--results", metavar="NAME", help="of the JSON (default gpu_plan_TARGET)")
    return parser


if __name__ == "__main__":
    compile_only()
    run_command(main)
