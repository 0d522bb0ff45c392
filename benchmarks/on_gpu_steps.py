"""Define the steps of ``benchmarks.on_gpu``.

A step yields results by name. Those that time programs list them as cases, so that ``compile`` can compile them first.
"""

import dataclasses
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import finished, seconds_of
from benchmarks.full_size import Trainer, blocks, paper_config, random_variables
from dvg_jax.config import VQGANS
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import SCALES
from dvg_jax.data.phantom import chest
from dvg_jax.diffusion import Sampler
from dvg_jax.dvg import DVG
from dvg_jax.latents import latent_shape
from dvg_jax.networks.convolution import upsample
from dvg_jax.xray import ConeBeamGeometry, back_project, forward_project, published, view_pose

SAMPLING_STEPS = (100, 10)
TRAINED = ("ct_vqgan", "new_view", "diffusion")
TWICE = ("ct_vqgan", "new_view")
TWICE_STEPS = 30
SMALL = 32
"""Edge at which a GPU is compared with a CPU, and a training with its repetition."""

Results = Iterator[tuple[str, dict[str, Any]]]


class Options(NamedTuple):
    """Hold what all steps share: edge in voxels, compute type, use of LPIPS in training, number of compile threads."""

    size: int
    dtype: str
    lpips: bool
    jobs: int


class Case(NamedTuple):
    """Describe a program to be timed. ``compile`` only compiles it, where running it would take much memory."""

    run: Callable[[], Any]
    compile: Callable[[], Any] | None = None


def record(step: str, options: Options, file: Path) -> None:
    """Do one step, and append each of its results to ``file`` as a line of JSON once it is there."""
    for name, found in STEPS[step](options):
        with file.open("a") as lines:
            lines.write(json.dumps({name: found}, default=float) + "\n")


def environment(options: Options) -> Results:
    """Name the device; measure its arithmetic and its memory, on a GPU."""
    yield "devices", {"kinds": [device.device_kind for device in jax.devices()], "cores": os.cpu_count()}
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


def compile_all(options: Options) -> Results:
    """Compile the programs of the other steps, in parallel: a GPU's compiler takes minutes for each network."""
    with ThreadPoolExecutor(options.jobs) as pool:
        pending = {pool.submit(make, options): step for step, make in CASES.items()}
        while pending:
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                name = pending.pop(done)
                if error := done.exception():
                    yield name, {"failed": str(error)}
                elif name in CASES:
                    for case, made in done.result().items():
                        pending[pool.submit(seconds_of, finished(made.compile or made.run))] = f"{name}: {case}"
                else:
                    yield name, {"seconds": done.result()}


def equal(options: Options) -> Results:
    """Compare this device with this machine's CPU in float32, as users get it and at the highest precision."""
    config = SCALES["tiny"]()
    config.size = SMALL
    dvg = build_dvg(config)
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    for name, (function, *arguments) in _compared(dvg).items():
        found = {}
        for label, where, precision in (
            ("cpu", cpu, "highest"),
            ("default", device, "default"),
            ("highest", device, "highest"),
        ):
            with jax.default_matmul_precision(precision):
                jax.clear_caches()
                found[label] = jax.tree.map(np.asarray, jax.jit(function)(*jax.device_put(arguments, where)))
        yield name, {label: _apart(found[label], found["cpu"]) for label in ("default", "highest")}


def twice(options: Options) -> Results:
    """Train a small stage twice in this process, and compare the bits."""
    for name in TWICE:
        config = SCALES["tiny"]()
        config.size = SMALL
        digests = []
        for _ in range(2):
            trainer = Trainer(name, config)
            for _ in range(TWICE_STEPS):
                trainer.step()
            leaves = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trainer.state.params))
            digests.append(hashlib.sha256(leaves).hexdigest()[:12])
        yield name, {"same": digests[0] == digests[1], "digests": digests}


def measured(make: Callable[[Options], dict[str, Case]], options: Options) -> Results:
    """Time every case; one that fails does not keep the others from being timed."""
    for name, case in make(options).items():
        try:
            yield name, timed(case.run)
        except Exception as error:  # out of memory, or a program that the compiler refuses
            yield name, {"failed": str(error)}


def upsampling(options: Options) -> dict[str, Case]:
    """List the decoder's last transposed convolution with its gradients, in both forms."""
    edge, keys, dtype = options.size // 2 + 2, jax.random.split(jax.random.key(0), 3), jnp.dtype(options.dtype)
    x = jax.random.normal(keys[0], (2, edge, edge, edge, 64), dtype)
    kernel = jax.random.normal(keys[1], (4, 4, 4, 64, 32), dtype)
    given = jax.random.normal(keys[2], (2, options.size, options.size, options.size, 32), dtype)
    cases = {}
    for form in ("native", "sliced"):
        apply = partial(upsample, form=form)
        gradients = jax.jit(lambda x, kernel, given, apply=apply: jax.vjp(apply, x, kernel)[1](given))
        cases[f"{form}, forward"] = Case(partial(jax.jit(apply), x, kernel))
        cases[f"{form}, gradients"] = Case(partial(gradients, x, kernel, given))
    return cases


def projections(options: Options) -> dict[str, Case]:
    """List projections and their gradients, each for a level pose and for any pose."""
    geometry = ConeBeamGeometry.paper(size=options.size)
    volume = jax.random.uniform(jax.random.key(0), geometry.volume_shape)
    return {
        name: Case(partial(jax.jit(function), *rest))
        for name, (function, *rest) in _projections(volume, geometry).items()
    }


def forward(options: Options) -> dict[str, Case]:
    """List the blocks of the picture."""
    dvg = build_dvg(paper_config(options.size, options.dtype))
    return {name: Case(block) for name, block in blocks(dvg, jax.device_put(random_variables(dvg))).items()}


def reconstruction(options: Options) -> dict[str, Case]:
    """List reconstructions from two films by DDIM."""
    dvg = build_dvg(paper_config(options.size, options.dtype))
    variables = jax.device_put(random_variables(dvg))
    views = jax.random.uniform(jax.random.key(1), (1, 2, options.size, options.size, 1))
    cases = {}
    for steps in SAMPLING_STEPS:
        chosen = dataclasses.replace(dvg, sampler=Sampler(steps, eta=0.0))
        cases[f"{steps} steps"] = Case(partial(chosen.reconstruct, variables, views, dvg.angles, jax.random.key(0)))
    return cases


def training_step(stage: str, options: Options) -> dict[str, Case]:
    """List a stage's training step, with critics where it has them."""
    config = paper_config(options.size, options.dtype)
    if stage in VQGANS and not options.lpips:
        config[stage].loss.perceptual = 0.0
    trainer = Trainer(stage, config)
    return {f"batch {trainer.batch}": Case(trainer.step, trainer.compile)}


def timed(run: Callable[[], Any], seconds: float = 5.0, most: int = 20) -> dict[str, float]:
    """Return seconds of the first call, median and fastest ms of the next 3 or more, and peak memory in GiB."""
    run = finished(run)
    first, times, end = seconds_of(run), [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < most):
        times.append(1e3 * seconds_of(run))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    figures = {"first_s": first, "median_ms": statistics.median(times), "fastest_ms": min(times), "calls": len(times)}
    return figures | {"peak_gib": peak}


def _projections(volume: jax.Array, geometry: ConeBeamGeometry) -> dict[str, tuple[Any, ...]]:
    """Return functions with their arguments. A NumPy pose is level and known beforehand; a JAX array is any pose."""
    level, any_pose = view_pose(45.0), jnp.asarray(view_pose(37.0, (3.0, -2.0, 1.0), (4.0, -3.0)))
    image = jnp.ones(geometry.detector_shape).at[0, 0].set(0.5)

    def energy(volume: jax.Array, pose: Any) -> jax.Array:
        return jnp.sum(forward_project(volume, pose, geometry) ** 2)

    return {
        "forward, level": (lambda x: forward_project(x, level, geometry), volume),
        "forward, level, gradient": (jax.grad(lambda x: energy(x, level)), volume),
        "forward, any pose": (lambda x, p: forward_project(x, p, geometry), volume, any_pose),
        "forward, any pose, gradients": (jax.grad(energy, argnums=(0, 1)), volume, any_pose),
        "back, level": (lambda i: back_project(i, level, geometry), image),
        "back, any pose": (lambda i, p: back_project(i, p, geometry), image, any_pose),
        "forward, released": (lambda x: published.forward_project(x, level, geometry), volume),
        "back, released": (lambda i: published.back_project(i, level, geometry), image),
    }


def _compared(dvg: DVG) -> dict[str, tuple[Any, ...]]:
    """Return functions with their arguments: projections, networks, and a gradient of the loss."""
    with jax.default_device(jax.devices("cpu")[0]):
        ct = chest(jax.random.key(3), dvg.geometry.volume_shape[0])
        compared = _projections(ct, dvg.geometry)
        variables = random_variables(dvg)
        z = jax.random.normal(jax.random.key(0), latent_shape(dvg.ct_vqgan, (1, *ct.shape)))
    t = jnp.zeros(1, jnp.int32)
    return compared | {
        "encoder": (lambda v, x: dvg.ct_latent(v, x), variables, ct[None, ..., None]),
        "decoder, not quantised": (lambda v, z: dvg.ct_vqgan.apply(v, z, method="decode"), variables["ct_vqgan"], z),
        "codes": (lambda v, z: dvg.ct_vqgan.apply(v, z, method="quantize")[1], variables["ct_vqgan"], z),
        "G_z": (dvg.first_latent, variables["new_view"]["params"], z),
        "g_theta": (lambda p, z: dvg.denoiser.predict((p, (z, z)), z, t), variables["diffusion"]["params"], z),
        "g_theta, gradient of the loss": (
            lambda p, z: jax.grad(dvg.loss)(p, (z, z), z, jax.random.key(0)),
            variables["diffusion"]["params"],
            z,
        ),
    }


def _apart(a: Any, b: Any) -> float:
    """Return the rms difference of two trees, relative to the second's rms."""
    a, b = (np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(np.sqrt(np.mean((a - b) ** 2) / max(np.mean(b**2), 1e-300)))


CASES: dict[str, Callable[[Options], dict[str, Case]]] = {
    **{f"step_{stage}": partial(training_step, stage) for stage in TRAINED},
    "forward": forward,
    "reconstruct": reconstruction,
    "upsample": upsampling,
    "projector": projections,
}
"""Steps that time programs; those that take longest to compile come first."""

STEPS: dict[str, Callable[[Options], Results]] = {
    "env": environment,
    "compile": compile_all,
    **{name: partial(measured, make) for name, make in CASES.items()},
    "equal": equal,
    "twice": twice,
}
DEFAULT = tuple(STEPS)
