"""Define the stage that learns to correct CTs by their films: ``refine``."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.dvg import DVG
from dvg_jax.keys import named
from dvg_jax.metrics import psnr_volume
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.lpips import load_lpips, lpips
from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage, Volume, Volumes
from dvg_jax.stages.base import Example, Metrics, Stage
from dvg_jax.stages.latent import diffusion_requires, preview
from dvg_jax.xray.views import Angles, ViewSets

STEPS = 4
"""Sampling steps of the CTs to be corrected: more change them little (docs/consistency.md)."""

LEAST_GAIN = 0.02
"""The share of the squared error below which a refiner counts as the identity."""


@dataclass(frozen=True)
class RefineWeights:
    """Hold the fields of ``config.refine.loss`` and their defaults; the squared error has weight 1."""

    l1: float = 0.0
    perceptual: float = 0.0  # LPIPS (VGG) of one random axial slice; 0 leaves it out


@dataclass(frozen=True)
class RefineTask:
    """Train the refiner on results of DVG-Net and of the diffusion model alike."""

    dvg: DVG
    weights: RefineWeights

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {"lpips": load_lpips("vgg")} if self.weights.perceptual else {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        refinement = self.dvg.refinement
        x = refinement.features(example["starts"][:, 0], example["views"], self._angles(example))
        rounds = {
            f"round_{i}": init_variables(refinement.refiner, named(key, f"round_{i}"), x)["params"]
            for i in range(refinement.rounds)
        }
        return {"model": rounds}, {}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the error after each round; all but the last count half: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``ct`` (B, D, H, W, 1), its X-rays ``views`` (B, V, h, w, 1), and the CTs to be corrected,
            ``starts`` (B, S, D, H, W, 1), of which one is drawn at each step; with drawn views ``angles`` and
            ``weights``, (B, V).
        """
        key_start, key_slice = jax.random.split(key)
        ct, starts = example["ct"], example["starts"]
        choice = jax.random.randint(key_start, (len(ct),), 0, starts.shape[1])
        start = jax.vmap(lambda cts, i: cts[i])(starts, choice)
        *first, last = self.dvg.refine(params["model"], start, example["views"], self._angles(example))
        loss = jnp.mean((last - ct) ** 2) + sum(0.5 * jnp.mean((x - ct) ** 2) for x in first)
        metrics = {"before": jnp.mean((start - ct) ** 2), "after": jnp.mean((last - ct) ** 2)}
        if self.weights.l1:
            loss += self.weights.l1 * jnp.mean(jnp.abs(last - ct))
        if self.weights.perceptual:
            slices = jax.random.randint(key_slice, (len(ct),), 0, ct.shape[1])
            pair = (jax.vmap(lambda v, i: v[i])(x, slices) for x in (ct, last))
            metrics["perceptual"] = jnp.mean(lpips(constants["lpips"], *pair))
            loss += self.weights.perceptual * metrics["perceptual"]
        return loss, (model_state, metrics)

    def _angles(self, example: Example) -> Angles:
        return ViewSets(example["angles"], example["weights"]) if "angles" in example else self.dvg.angles


def refine_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of the refiner, which corrects results of all stages before it."""
    requires = (*diffusion_requires(dvg), "diffusion") if dvg.use_diffusion else ("ct_vqgan", "view_vqgan", "new_view")
    quick = preview(dvg, STEPS)

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        key_views, key_sample = jax.random.split(key)
        views, angles = dvg.input_views(ct, key_views)
        starts = [quick.estimate(frozen, views, angles, key_sample)]
        if dvg.use_diffusion and "new_view" in requires:
            starts.append(replace(dvg, use_diffusion=False).estimate(frozen, views, angles, key_sample))
        drawn = angles._asdict() if isinstance(angles, ViewSets) else {}
        return {"ct": ct, "views": views, "starts": jnp.stack(starts, 1), **drawn}

    def export(params: Variables, model_state: Variables, examples: Iterator[Example]) -> Variables:
        _warn_of_identity(task, params, examples)
        return {"params": params}

    def show(variables: VariablesByStage, ct: Volumes, key: Key) -> tuple[Metrics, dict[str, Volume]]:
        result = replace(quick, consistency="refine").reconstruct(
            variables, dvg.render(ct, dvg.angles), dvg.angles, key
        )
        psnr = jnp.mean(jax.vmap(psnr_volume)(ct[..., 0], result[..., 0]))
        return {"psnr": psnr}, {"truth": ct[0, ..., 0], "refine": result[0, ..., 0]}

    task = RefineTask(dvg, RefineWeights(**config.refine.loss))
    return Stage("refine", task, requires, prepare, export, show)


def _warn_of_identity(task: RefineTask, params: Variables, examples: Iterator[Example]) -> None:
    """Say so on stderr where training has ended with a network that changes nothing, as too high a rate can."""
    before, after = 0.0, 0.0
    for example in examples:
        metrics = _errors(task, params, example)
        before, after = before + float(metrics["before"]), after + float(metrics["after"])
    if after > (1 - LEAST_GAIN) * before:
        print(
            f"warning: refine: the error on training examples is {after / before:.3f} of what it was before; the "
            "network changes nothing, try half the config.refine.train.learning_rate",
            file=sys.stderr,
        )


@partial(jax.jit, static_argnums=0)
def _errors(task: RefineTask, params: Variables, example: Example) -> Metrics:
    quiet = replace(task, weights=RefineWeights())
    return quiet.loss({"model": params}, {}, {}, example, jax.random.key(0), jnp.zeros((), jnp.int32))[1][1]
