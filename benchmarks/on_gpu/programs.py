"""Time programs of the published sizes; each result is a line of its own."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.common import finished, seconds_of
from benchmarks.full_size import Trainer, blocks, paper_config, random_variables
from benchmarks.on_gpu.plan import SMALLEST, Shared
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import SCALES
from dvg_jax.diffusion import Sampler
from dvg_jax.networks.convolution import upsample
from dvg_jax.networks.lpips import weights_file

SAMPLING_STEPS = (100, 10)

CHANNELS = {"wide": (64, 32), "narrow": (8, 4)}
"""The decoder's last transposed convolution has these channels before and after it, as published and in the demo."""

Results = Iterator[tuple[str, dict[str, Any]]]
Programs = Callable[[Shared], dict[str, Callable[[], Any]]]


def config_of(shared: Shared) -> ConfigDict:
    """Return the published networks' config at a size; the demo's below 32 voxels, with critics and LPIPS as there."""
    if shared.size >= SMALLEST:
        return paper_config(shared.size, shared.dtype)
    config = SCALES["tiny"]()
    config.size, config.dtype = shared.size, shared.dtype
    config.angles, config.new_angles = (0.0, 90.0), (45.0,)
    losses = {"perceptual": 4.0, "gan": 1.0, "feature_matching": 4.0, "gan_start": 0, "disc_width": 8}
    config.ct_vqgan.loss.update(losses)
    return config


def environment(shared: Shared) -> Results:
    """Name the device; measure its arithmetic and its memory, on a GPU."""
    flags = {"xla_flags": os.environ.get("XLA_FLAGS", ""), "jax_platforms": os.environ.get("JAX_PLATFORMS", "")}
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0) / 2**30
    kinds = [device.device_kind for device in jax.devices()]
    yield "devices", {"kinds": kinds, "memory_gib": memory, "cores": os.cpu_count(), **flags}
    yield "LPIPS", {"weights": weights_file("vgg")[0]}
    if jax.default_backend() == "cpu":
        return
    square = jax.random.normal(jax.random.key(0), (8192, 8192), jnp.bfloat16)
    multiply = jax.jit(lambda a: a @ a)
    found = timed(lambda: multiply(square), 2)
    yield "product of 8192^2 in bfloat16", found | {"tflops": 2 * 8192**3 / found["median_ms"] / 1e9}
    line = jnp.ones(2**29, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    found = timed(lambda: add(line), 2)
    yield "copy of 2 GiB", found | {"tb_per_s": 2 * line.nbytes / found["median_ms"] / 1e9}


def measured(make: Programs, shared: Shared) -> Results:
    """Time every program; one that fails does not keep the others from being timed."""
    for name, run in make(shared).items():
        try:
            yield name, timed(run)
        except Exception as error:  # out of memory, or a program that the compiler refuses
            yield name, {"failed": str(error)}


def every_block(shared: Shared) -> dict[str, Callable[[], Any]]:
    """List the blocks of the picture."""
    dvg = build_dvg(config_of(shared))
    return blocks(dvg, jax.device_put(random_variables(dvg)))


def forward(shared: Shared) -> dict[str, Callable[[], Any]]:
    """List the two blocks that take most of a reconstruction's time, the decoder and g_theta."""
    return {name: run for name, run in every_block(shared).items() if name in ("decoder", "g_theta, one step")}


def reconstruction(shared: Shared) -> dict[str, Callable[[], Any]]:
    """List reconstructions from two films by DDIM."""
    dvg = build_dvg(config_of(shared))
    variables = jax.device_put(random_variables(dvg))
    views = jax.random.uniform(jax.random.key(1), (1, 2, shared.size, shared.size, 1))
    found = {}
    for steps in SAMPLING_STEPS:
        chosen = dataclasses.replace(dvg, sampler=Sampler(steps, eta=0.0))
        found[f"{steps} steps"] = partial(chosen.reconstruct, variables, views, dvg.angles, jax.random.key(0))
    return found


def training_step(stage: str, shared: Shared) -> dict[str, Callable[[], Any]]:
    """List a stage's training step, with critics and LPIPS where it has them."""
    trainer = Trainer(stage, config_of(shared))
    return {f"batch {trainer.batch}": trainer.step}


def upsampling(shared: Shared) -> dict[str, Callable[[], Any]]:
    """List the decoder's last transposed convolution in both forms, with its gradients; the slowest compiles last."""
    edge, keys, dtype = shared.size // 2 + 2, jax.random.split(jax.random.key(0), 3), jnp.dtype(shared.dtype)
    before, after = CHANNELS["wide" if shared.size >= SMALLEST else "narrow"]
    x = jax.random.normal(keys[0], (2, edge, edge, edge, before), dtype)
    kernel = jax.random.normal(keys[1], (4, 4, 4, before, after), dtype)
    given = jax.random.normal(keys[2], (2, shared.size, shared.size, shared.size, after), dtype)
    forwards, gradients = {}, {}
    for form, apply in FORMS.items():
        pulled = jax.jit(lambda x, kernel, given, apply=apply: jax.vjp(apply, x, kernel)[1](given))
        forwards[f"{form}, forward"] = partial(jax.jit(apply), x, kernel)
        gradients[f"{form}, gradients"] = partial(pulled, x, kernel, given)
    return forwards | gradients


def upsample_with_holes(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Apply the same transposed convolution in its textbook form, over an input with zeros between its voxels."""
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(
        x, kernel[::-1, ::-1, ::-1], (1, 1, 1), [(0, 0)] * 3, lhs_dilation=(2, 2, 2), dimension_numbers=numbers
    )


FORMS = {"phases": upsample, "with holes": upsample_with_holes}
"""The library's form comes first, the textbook's second."""


def timed(run: Callable[[], Any], seconds: float = 3.0, most: int = 20) -> dict[str, float]:
    """Return seconds of the first call, median and fastest ms of the next 3 or more, and peak memory in GiB."""
    run = finished(run)
    first, times, end = seconds_of(run), [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < most):
        times.append(1e3 * seconds_of(run))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    figures = {"first_s": first, "median_ms": statistics.median(times), "fastest_ms": min(times), "calls": len(times)}
    return figures | {"peak_gib": peak}


TASKS: dict[str, Callable[[Shared], Results]] = {
    "env": environment,
    **{
        name: partial(measured, make)
        for name, make in {
            "forward": forward,
            "blocks": every_block,
            "reconstruct": reconstruction,
            "upsample": upsampling,
            **{f"step_{stage}": partial(training_step, stage) for stage in ("ct_vqgan", "new_view", "diffusion")},
        }.items()
    },
}
"""It maps each step that times programs to the function that lists them."""
