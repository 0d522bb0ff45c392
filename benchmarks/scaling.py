"""What devices exchange in a training step, and what a step would take on many GPUs, on paper.

    python -m benchmarks.scaling [--devices 1 2 4 8] [--estimate]

Collectives are counted in the programs that XLA compiles for so many fake CPU devices, one case a device, each number
of devices in a process of its own. Nothing is timed: fake devices share the cores of one machine. ``--estimate`` prints
the tables alone: the counts of the last run, and the estimate, which needs no run.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from benchmarks.common import RESULTS, save
from configs.paper import get_config
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config import PAPER_STAGES
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import tiny
from dvg_jax.latents import latent_shape
from dvg_jax.stages import build_stage
from dvg_jax.training import sharding
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update

RESULT = "scaling_cpu"
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\w*\[([\d,]*)\]")

CASES: dict[str, dict[str, Any]] = {
    "ct_vqgan, critics on": {"stage": "ct_vqgan"},
    "new_view": {"stage": "new_view"},
    "diffusion": {"stage": "diffusion"},
    "diffusion, encoders in the step": {"stage": "diffusion", "cache": False},
}
"""The programs looked at."""


def collectives(program: str) -> dict[str, dict[str, int]]:
    """How many of each kind of collective a compiled program (HLO text) holds, and the bytes of their results.

    One that takes many arrays counts once. Kinds that do not occur are left out.
    """
    found: dict[str, dict[str, int]] = {}
    for result, kind in _OPERATION.findall(program):
        sizes = [
            max(int(bits), 8) // 8 * math.prod(int(n) for n in shape.split(",") if n)
            for _, bits, shape in _ARRAY.findall(result)
        ]
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += sum(sizes)
    return found


def narrow_config(size: int = 64) -> ConfigDict:
    """Narrow networks on ``size``^3; the number of layers with batch statistics is the published one."""
    config = tiny()
    config.size = size
    config.ct_vqgan.loss.update({"gan": 1.0, "feature_matching": 4.0, "gan_start": 0, "disc_width": 4})
    return config


def compiled_step(
    config: ConfigDict, devices: int, stage: str, cache: bool = True, per_device: int = 1
) -> tuple[str, int]:
    """The program of one training step over so many devices, and the bytes of its gradients."""
    dvg = build_dvg(config)
    training = Training(**config[stage].train)
    batch = devices * per_device
    mesh = sharding.data_mesh(batch, "batch_size")
    layout = sharding.Layout(mesh)
    made = build_stage(stage, config, dvg)
    rows = jax.ShapeDtypeStruct((batch, *dvg.geometry.volume_shape, 1), jnp.float32)
    frozen = {name: variables(dvg, name) for name in made.requires}
    example = jax.eval_shape(made.prepare, frozen, rows, jax.random.key(0))
    step = Step(made.task, training.recipe, None if cache else made.prepare, layout)
    state = create(step, jax.random.key(0), jax.tree.map(_zeros, example))

    def spread(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    learned = {} if cache else spread(frozen, sharding.replicated(mesh))
    constants = sharding.place(made.task.constants({}), sharding.replicated(mesh))
    batch = spread(example if cache else {"ct": rows}, sharding.rows_split(mesh))
    lowered = update.lower(step, state, Fixed(learned, constants, jax.random.key(1)), batch, jnp.float32(1e-3))
    # Never run, so its machine code need not be fast.
    program = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    return program.as_text(), parameter_bytes(state.params)


def variables(dvg: Any, name: str) -> Any:
    """Shapes of what a stage has learned."""
    ct = jnp.zeros((1, *dvg.geometry.volume_shape, 1))
    z = jnp.zeros(latent_shape(dvg.ct_vqgan, (1, *dvg.geometry.volume_shape)))
    t, key = jnp.zeros(1, jnp.int32), jax.random.key(0)
    if name == "new_view":
        return jax.eval_shape(dvg.generator.init, key, z, t)
    if name == "diffusion":
        return jax.eval_shape(dvg.denoiser.init, key, (z, z), z, t)
    channels = jax.ShapeDtypeStruct(z.shape[-1:], jnp.float32)
    statistics = {"statistics": {"mean": channels, "std": channels}}
    return jax.eval_shape(getattr(dvg, name).init, key, ct) | statistics


def parameter_bytes(tree: Any) -> int:
    """Bytes of all arrays, or of what ``jax.eval_shape`` tells of them."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _zeros(like: Any) -> jax.Array:
    return jnp.zeros(like.shape, like.dtype)


def counted(devices: int) -> dict[str, Any]:
    """Every case on this process's devices."""
    found = {}
    for name, case in CASES.items():
        program, gradient_bytes = compiled_step(narrow_config(), devices, **case)
        found[name] = {"collectives": collectives(program), "gradient_bytes": gradient_bytes}
    return found


# The estimate.

GIGABIT = 1e9 / 8
"""Bytes a second."""


@dataclass(frozen=True)
class Machine:
    """Assumptions about GPUs and links, none of them measured here.

    Attributes:
      peak: multiply-adds a second a GPU counts as two operations: NVIDIA's figure for an H100 SXM, TF32, dense.
      utilisation: the share of ``peak`` that a training step reaches.
      per_machine: GPUs joined by ``local``.
      local: bytes a second each GPU sends within a machine (NVLink 4, one direction).
      network: bytes a second a machine sends to the next.
    """

    peak: float = 495e12
    utilisation: float = 0.3
    per_machine: int = 8
    local: float = 450e9
    network: float = GIGABIT * 400


FORWARD_MULTIPLY_ADDS = 209.0e9
"""Of g_theta, one case at 128^3."""

TRAINING_FACTOR = 3
"""A backward pass takes about two forward ones."""

GPUS = (8, 16, 32, 64)
NETWORKS = {"200 Gb/s": GIGABIT * 200, "400 Gb/s": GIGABIT * 400, "8 x 400 Gb/s": GIGABIT * 3200}
"""What joins machines: one port each, or one a GPU, over which as many rings run side by side."""


def ring_seconds(size: float, devices: int, bandwidth: float) -> float:
    """A ring all-reduce: every link carries 2 (n - 1) / n of the bytes; latency is left out."""
    return 2 * (devices - 1) / devices * size / bandwidth


def step_estimate(devices: int, cases: int, gradient_bytes: int, machine: Machine) -> dict[str, float]:
    """Seconds of g_theta's step: arithmetic, all-reduce at the speed of the slowest link, both one after the other, and
    both at once. ``efficiency`` is the share of arithmetic in the former.
    """
    operations = 2 * FORWARD_MULTIPLY_ADDS * TRAINING_FACTOR * cases
    arithmetic = operations / (machine.peak * machine.utilisation)
    link = machine.local if devices <= machine.per_machine else machine.network
    exchange = ring_seconds(gradient_bytes, devices, link)
    return {
        "arithmetic": arithmetic,
        "exchange": exchange,
        "step": arithmetic + exchange,
        "step_overlapped": max(arithmetic, exchange),
        "efficiency": arithmetic / (arithmetic + exchange),
    }


def published_gradients() -> dict[str, int]:
    """Bytes of the gradients of every stage of ``configs/paper.py:biplanar``; nothing is computed for it."""
    config = get_config("biplanar")
    dvg = build_dvg(config)
    found = {name: parameter_bytes(variables(dvg, name)["params"]) for name in PAPER_STAGES}
    critics = build_stage("ct_vqgan", config, dvg).task.adversary.critics  # type: ignore[attr-defined]
    ct = jax.ShapeDtypeStruct((1, *dvg.geometry.volume_shape, 1), jnp.float32)
    inputs = {"volume": ct, "slices": jax.ShapeDtypeStruct((1, *ct.shape[2:]), jnp.float32)}
    found["critics of a VQGAN"] = sum(
        parameter_bytes(jax.eval_shape(critic.init, jax.random.key(0), inputs[name])["params"])
        for name, critic in critics.items()
    )
    return found


def estimates() -> dict[str, Any]:
    """g_theta's step by GPUs, cases a GPU and network."""
    gradients = published_gradients()
    rows = [
        {"gpus": n, "network": network, "cases": cases}
        | step_estimate(n, cases, gradients["diffusion"], Machine(network=speed))
        for cases in (2, 8)
        for n in GPUS
        for network, speed in (NETWORKS if n > Machine().per_machine else {"NVLink": Machine.local}).items()
    ]
    return {"not_run": True, "gradient_bytes": gradients, "assumed": vars(Machine()), "steps": rows}


def tables(results: dict[str, Any]) -> str:
    """What ``docs/scaling.md`` shows."""
    lines = ["| step | gradients | " + " | ".join(f"{n} devices" for n in results["counts"]) + " |"]
    lines.append("|---" * (2 + len(results["counts"])) + "|")
    for name in CASES:
        by_devices = [entry[name] for entry in results["counts"].values()]
        cells = [_told(entry["collectives"]) for entry in by_devices]
        lines.append(f"| {name} | {_kib(by_devices[0]['gradient_bytes'])} | {' | '.join(cells)} |")
    lines += ["", "| stage | gradients of the published size |", "|---|---|"]
    estimate = results["estimate"]
    lines += [f"| {name} | {size / 1e6:.1f} MB |" for name, size in estimate["gradient_bytes"].items()]
    lines += ["", "| cases a GPU | GPUs | link | arithmetic | all-reduce | step | overlapped | efficiency |"]
    lines.append("|---" * 8 + "|")
    for row in estimate["steps"]:
        times = " | ".join(f"{1000 * row[k]:.1f} ms" for k in ("arithmetic", "exchange", "step", "step_overlapped"))
        lines.append(f"| {row['cases']} | {row['gpus']} | {row['network']} | {times} | {row['efficiency']:.0%} |")
    return "\n".join(lines)


def _told(found: dict[str, dict[str, int]]) -> str:
    return ", ".join(f"{e['count']} {kind}, {_kib(e['bytes'])}" for kind, e in found.items()) or "none"


def _kib(size: int) -> str:
    return f"{size / 1024:.1f} KiB"


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = Parser(__doc__, "python -m benchmarks.scaling")
    parser.add_argument("--devices", type=int, nargs="*", default=[1, 2, 4, 8], help="other counts in the file stay")
    parser.add_argument("--estimate", action="store_true", help="count nothing anew")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        print(json.dumps(counted(options.child)))
        return
    before = RESULTS / f"{RESULT}.json"
    if options.estimate:
        print(tables(json.loads(before.read_text())["results"] | {"estimate": estimates()}))
        return
    counts = json.loads(before.read_text())["results"]["counts"] if before.exists() else {}
    for n in options.devices:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={n}",
        }
        child = [sys.executable, "-m", "benchmarks.scaling", f"--child={n}"]
        done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        counts[str(n)] = json.loads(done.stdout.splitlines()[-1])
        print(n, {name: _told(entry["collectives"]) for name, entry in counts[str(n)].items()}, flush=True)
    results = {"counts": dict(sorted(counts.items(), key=lambda item: int(item[0]))), "estimate": estimates()}
    print(f"written: {save(RESULT, results)}")
    print(tables(results))


if __name__ == "__main__":
    run_command(main)
