"""Ask one GPU in a few minutes how fast the published sizes are, and whether it computes what a CPU does.

    python -m benchmarks.on_gpu --output results [--size 128] [--only env forward ...] [--limit 300]

Each step runs in a process of its own. It is ended at its limit, a failure is recorded and the next step follows;
``on_gpu.json`` in the output folder is written anew after each. ``compile`` comes early: it compiles the programs of
the steps after it in parallel threads into ``OUTPUT/xla``, from which they take them. Only if named, ``train`` trains
the CT's VQGAN until the limit. A dry run on a CPU: ``--size 32 --dtype float32``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import save
from benchmarks.on_gpu_steps import DEFAULT, STEPS, Options, record
from dvg_jax import runtime
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.rules import Number

TRAIN = "train"
GRACE_S = 60
"""Seconds between asking a training to stop and killing it, in which it saves its state. Other steps have none."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    options = _parser().parse_args(argv)
    if options.child:
        runtime.check_platform()
        shared = Options(options.size, options.dtype, not options.no_lpips, options.jobs)
        record(options.child, shared, _lines_of(options.output, options.child))
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options.output.mkdir(parents=True, exist_ok=True)
    flags = os.environ.get("XLA_FLAGS", "")
    results: dict[str, Any] = {"size": options.size, "dtype": options.dtype, "xla_flags": flags}
    for step in options.only:
        results[step] = found = _ended(step, options)
        path = save("on_gpu", results, options.output)
        print(step, json.dumps(found), flush=True)
    print(f"written: {path}")


def _ended(step: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one step to its end or its limit; return what it found, its seconds and, if it failed, why."""
    if step != TRAIN:  # a training goes on where it stopped
        _lines_of(options.output, step).unlink(missing_ok=True)
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(options.output / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    log, start = options.output / f"{step}.log", time.perf_counter()
    with log.open("w") as output:
        child = subprocess.Popen(_command(step, options), env=os.environ | cache, stdout=output, stderr=output)
        try:
            code = child.wait(options.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child, GRACE_S if step == TRAIN else 0)
    found = {"seconds": time.perf_counter() - start, **_found(step, options.output)}
    if code is None and step != TRAIN:
        found["failed"] = f"not done within {options.limit} s"
    elif code:
        found["failed"] = (log.read_text().strip().splitlines() or [f"exit code {code}"])[-1]
    return found


def _end(child: "subprocess.Popen[bytes]", grace_s: int) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _command(step: str, options: argparse.Namespace) -> list[str]:
    if step == TRAIN:
        settings = {"stage": "ct_vqgan", "size": options.size, "dtype": options.dtype, "data.train_count": 64}
        if options.no_lpips:
            settings["ct_vqgan.loss.perceptual"] = 0.0
        flags = ["--config=configs/paper.py:biplanar", f"--workdir={options.output / TRAIN}"]
        return [sys.executable, "train.py", *flags, *(f"--config.{name}={value}" for name, value in settings.items())]
    shared = [f"--{name}={getattr(options, name)}" for name in ("size", "dtype", "output", "jobs")]
    lpips = ["--no_lpips"] if options.no_lpips else []
    return [sys.executable, "-m", "benchmarks.on_gpu", *shared, *lpips, f"--child={step}"]


def _lines_of(output: Path, step: str) -> Path:
    """Return the file to which a step appends a line with each of its results."""
    return output / TRAIN / "ct_vqgan" / "metrics.jsonl" if step == TRAIN else output / f"{step}.jsonl"


def _found(step: str, output: Path) -> dict[str, Any]:
    """Collect what a step has written; of a training its last line."""
    file = _lines_of(output, step)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if step == TRAIN:
        return {"last": lines[-1]} if lines else {}
    return {name: value for line in lines for name, value in line.items()}


def _parser() -> Parser:
    parser = Parser(__doc__, "python -m benchmarks.on_gpu")
    whole = number(Number(1, whole=True))
    parser.add_argument("--output", type=Path, required=True, help="folder for on_gpu.json, logs and compiled programs")
    parser.add_argument("--size", type=whole, default=128, help="voxels an axis, at least 32 (default %(default)s)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=(*STEPS, TRAIN), default=DEFAULT, help="these steps, in this order"
    )
    parser.add_argument("--limit", type=whole, default=300, help="seconds a step (default %(default)s)")
    parser.add_argument("--jobs", type=whole, default=os.cpu_count(), help="threads that compile (default %(default)s)")
    parser.add_argument("--no_lpips", action="store_true", help="train without LPIPS, whose weights are 56 MiB")
    parser.add_argument("--child", choices=tuple(STEPS), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    runtime.set_up()
    run_command(main)
