"""Time the published sizes on this machine: a reconstruction, its parts, and a training step of every stage.

    python -m benchmarks.full_size [--size 128] [--train_size 64] [--steps 2] [--only reconstruct parts ...]

Weights are random: what is measured is that everything fits and how long it takes, not what comes out. Every
measurement runs in a process of its own, whose peak memory is that measurement's. ``reconstruct`` goes through
``reconstruct.py``'s own code with a folder of random weights; seconds of parts and steps are those of a second call, so
without compilation.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.common import RESULTS, finished, save, seconds_of
from configs.paper import get_config
from dvg_jax import config as configs
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.config import PAPER_STAGES, VQGANS
from dvg_jax.config.build import build_dvg
from dvg_jax.data.films.read import write_picture
from dvg_jax.dvg import DVG
from dvg_jax.latents import latent_shape
from dvg_jax.networks.init import init_variables
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.stages import build_stage
from dvg_jax.training.checkpoint import save_model
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update

DTYPES = ("float32", "bfloat16")


def paper_config(size: int, dtype: str = "float32") -> ConfigDict:
    """Return the paper's biplanar config at a size and compute type, its critics at work from the first step."""
    config = get_config("biplanar")
    config.size, config.dtype = size, dtype
    for stage in VQGANS:
        config[stage].loss.gan_start = 0
    return config


def random_variables(dvg: DVG) -> dict[str, Any]:
    """Draw random weights of every stage, whose latents are not standardised."""
    ct = jnp.zeros((1, *dvg.geometry.volume_shape, 1))
    z = jnp.zeros(latent_shape(dvg.ct_vqgan, (1, *dvg.geometry.volume_shape)))
    t, key = jnp.zeros(1, jnp.int32), jax.random.key(0)
    raw = {"mean": np.zeros(z.shape[-1], np.float32), "std": np.ones(z.shape[-1], np.float32)}
    variables = {
        name: init_variables(getattr(dvg, name), key, ct) | {"statistics": raw}
        for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan")
    }
    variables["new_view"] = init_variables(dvg.generator, key, z, t)
    variables["diffusion"] = init_variables(dvg.denoiser, key, (z, z), z, t)
    return variables


def whole(size: int, steps: int) -> dict[str, float]:
    """Time ``reconstruct.py`` on two films with random weights: seconds, with loading and compilation."""
    config = paper_config(size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage, variables in random_variables(build_dvg(config)).items():
            save_model(folder / "run" / stage / "model", variables, {"stage": stage, "steps": 0})
        configs.save(config, folder / "run" / "config.json")
        films = np.random.default_rng(0).random((2, size, size))
        for angle, film in zip((0, 90), films, strict=True):
            write_picture(folder / f"{angle}.png", film)
        flags = [f"--xray={folder / f'{angle}.png'}@{angle}" for angle in (0, 90)]
        start = time.perf_counter()
        reconstruct.main(
            [f"--workdir={folder / 'run'}", *flags, f"--output={folder / 'ct.nii.gz'}", f"--steps={steps}"]
        )
        return {"seconds": time.perf_counter() - start, "steps": steps}


def blocks(dvg: DVG, variables: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return calls of every block of the picture for one case, by name; the first call of each compiles it."""
    size = dvg.geometry.volume_shape[0]
    views = jax.random.uniform(jax.random.key(1), (1, len(dvg.angles), size, size, 1))
    volume = jnp.zeros((1, size, size, size, 1))
    z = jnp.zeros(latent_shape(dvg.ct_vqgan, volume.shape[:4]))
    t = jnp.zeros(1, jnp.int32)
    denoise = jax.jit(dvg.denoiser.predict)
    arguments = (variables["diffusion"]["params"], (z, z))
    return {
        "back projection of two views": lambda: dvg.lift(views, dvg.angles),
        "back projection and encoder": lambda: dvg.view_latent(variables, views, dvg.angles),
        "G_z": lambda: dvg.first_latent(variables["new_view"]["params"], z),
        "decoder": lambda: dvg.decode(variables, z),
        "forward projection of one view": lambda: dvg.render(volume, dvg.new_angles),
        "g_theta, one step": lambda: denoise(arguments, z, t),
    }


def parts(size: int) -> dict[str, float]:
    """Return the seconds of every block of the picture, each from its second call."""
    dvg = build_dvg(paper_config(size))
    return {name: _second_call(block) for name, block in blocks(dvg, jax.device_put(random_variables(dvg))).items()}


class Trainer:
    """Take a stage's training steps on one random example, from random weights."""

    def __init__(self, stage_name: str, config: ConfigDict) -> None:
        dvg = build_dvg(config)
        stage = build_stage(stage_name, config, dvg)
        training = Training(**config[stage_name].train)
        self.batch, self._program = training.batch_size, Step(stage.task, training.recipe)
        ct = jax.random.uniform(jax.random.key(2), (self.batch, *dvg.geometry.volume_shape, 1))
        frozen = jax.device_put({k: v for k, v in random_variables(dvg).items() if k in stage.requires})
        self.example = jax.block_until_ready(stage.prepare(frozen, ct, jax.random.key(5)))
        self.state = create(self._program, jax.random.key(3), self.example)
        self._fixed = Fixed({}, stage.task.constants({}), jax.random.key(4))
        self._rate = jnp.asarray(training.learning_rate)

    def compile(self) -> None:
        """Compile the step without taking it."""
        update.lower(*self._arguments()).compile()

    def step(self) -> dict[str, jax.Array]:
        """Take a step and return its metrics."""
        self.state, metrics = update(*self._arguments())
        return metrics

    def _arguments(self) -> tuple[Any, ...]:
        return self._program, self.state, self._fixed, self.example, self._rate


def training_step(stage_name: str, size: int, dtype: str) -> dict[str, float]:
    """Take two steps of a stage at full width; return the loss of the second, and its seconds."""
    trainer = Trainer(stage_name, paper_config(size, dtype))
    for _ in range(2):
        start = time.perf_counter()
        loss = float(trainer.step()["loss"])
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trainer.state.params))
    return {"seconds": time.perf_counter() - start, "loss": loss, "finite": finite, "batch": trainer.batch}


def _second_call(block: Callable[[], Any]) -> float:
    seconds_of(finished(block))
    return seconds_of(finished(block))


def tasks(options: argparse.Namespace) -> dict[str, Callable[[], dict[str, float]]]:
    """Return all measurements by name."""
    steps = {
        f"{stage}, {dtype}": lambda s=stage, d=dtype: training_step(s, options.train_size, d)
        for stage in PAPER_STAGES
        for dtype in DTYPES
    }
    return {
        "reconstruct": lambda: whole(options.size, options.steps),
        "parts": lambda: parts(options.size),
        **steps,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.full_size")
    parser.add_argument("--size", type=int, default=128, help="of the reconstruction")
    parser.add_argument("--train_size", type=int, default=64, help="of the training steps")
    parser.add_argument("--steps", type=int, default=2, help="of the sampler")
    parser.add_argument("--only", nargs="*", help="measure these alone; other figures in the file stay")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    known = tasks(options)
    if options.child:
        figures = known[options.child]()
        # Linux counts in KiB.
        figures["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(figures))
        return
    name = f"full_size_{jax.default_backend()}"
    before = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(before.read_text())["results"] if options.only and before.exists() else {}
    results |= {"size": options.size, "train_size": options.train_size}
    for task in options.only or known:
        flags = [f"--{k}={getattr(options, k)}" for k in ("size", "train_size", "steps")]
        child = [sys.executable, "-m", "benchmarks.full_size", *flags, f"--child={task}"]
        done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
        results[task] = json.loads(done.stdout.splitlines()[-1])
        path = save(name, results)
        print(task, json.dumps(results[task]), flush=True)
    print(f"written: {path}")


if __name__ == "__main__":
    run_command(main)
