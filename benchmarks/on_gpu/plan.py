"""List the steps of the prepared run in the order of their worth. Does not import JAX."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TRAIN = "train"
SMALLEST = 32
"""Below so many voxels an axis the demo's networks stand in for the published ones."""

CHANNELS_LAST = "--xla_gpu_force_conv_nhwc"
DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops"
COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer=+CONVOLUTION"
"""Convolutions are launched with their neighbours, as fusions and products are without it, and not one by one."""


class Shared(NamedTuple):
    """Hold what all steps share: edge in voxels and compute type."""

    size: int
    dtype: str


class Step(NamedTuple):
    """Describe one process of the run.

    Attributes:
      limit: seconds after which it is ended, in a run of 8 minutes.
      least: seconds below which it is not started.
      task: name of what the process does, in ``child.TASKS``; the step's own name unless given.
      on: XLA flags that are true in it. The two that the run compares are false in all other steps.
      more: another flag with its value.
      beside: whether it times nothing, and so may run at the same time as its neighbours of that kind.
    """

    limit: int
    least: int
    task: str = ""
    on: tuple[str, ...] = ()
    more: str = ""
    beside: bool = False


STEPS = {
    "env": Step(30, 10),
    "forward": Step(60, 20),
    "forward_channels_last": Step(60, 20, "forward", (CHANNELS_LAST,)),
    "step_ct_vqgan": Step(75, 30),
    "step_ct_vqgan_channels_last": Step(75, 30, "step_ct_vqgan", (CHANNELS_LAST,)),
    "reconstruct": Step(75, 30),
    "forward_command_buffers": Step(60, 20, "forward", more=COMMAND_BUFFERS),
    "equal": Step(75, 20, beside=True),
    "twice": Step(75, 25, beside=True),
    "twice_deterministic": Step(75, 25, "twice", (DETERMINISTIC,), beside=True),
    "upsample": Step(45, 15),
    "projector": Step(60, 20),
    "peer_diffusion": Step(75, 30),
    "peer_ct_vqgan": Step(75, 30),
    TRAIN: Step(3600, 60),
    "blocks": Step(120, 30),
    "step_new_view": Step(120, 30),
    "step_diffusion": Step(120, 30),
}
"""It maps each step's name to the step; limits are from what an H100 took to compile (docs/performance.md)."""

DEFAULT = tuple(name for name in STEPS if name not in ("blocks", "step_new_view", "step_diffusion"))
"""These steps run unless others are named: all but those that ask again, in other words, what these ask."""


def groups(names: tuple[str, ...] | list[str]) -> list[list[str]]:
    """Return the steps in their order, neighbours that time nothing together."""
    found: list[list[str]] = []
    for name in names:
        if found and STEPS[name].beside and STEPS[found[-1][-1]].beside:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def command(name: str, shared: Shared, kept: Path, lines: Path) -> list[str]:
    """Return the command of a step's process.

    Args:
      name: of the step.
      shared: what all steps share.
      kept: folder in which a training works.
      lines: file to which the process appends its results.
    """
    if name != TRAIN:
        task = STEPS[name].task or name
        flags = {"step": name, "task": task, "size": shared.size, "dtype": shared.dtype, "lines": lines}
        return [sys.executable, "-m", "benchmarks.on_gpu.child", *(f"--{key}={value}" for key, value in flags.items())]
    settings = {"stage": "ct_vqgan", "size": shared.size, "dtype": shared.dtype, "data.train_count": 64}
    config = "configs/paper.py:biplanar"
    if shared.size < SMALLEST:
        config, settings["evaluate.also"] = "configs/quickstart.py", ""
    flags = [f"--config={ROOT / config}", f"--workdir={kept / TRAIN}"]
    return [sys.executable, str(ROOT / "train.py"), *flags, *(f"--config.{k}={v}" for k, v in settings.items())]


def environment(name: str, kept: Path) -> dict[str, str]:
    """Return the environment of a step's process: XLA's flags, and where compiled programs are stored."""
    compared = [f"{flag}={str(flag in STEPS[name].on).lower()}" for flag in (CHANNELS_LAST, DETERMINISTIC)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):  # a GPU is compared with the CPU beside it
        platforms += ",cpu"
    return os.environ | {
        "JAX_PLATFORMS": platforms,
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *compared, STEPS[name].more]).strip(),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(kept / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(kept / "inductor"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
