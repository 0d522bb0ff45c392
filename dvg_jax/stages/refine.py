"""Define the stage that learns to correct CTs by their films: ``refine``."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.dvg import DVG
from dvg_jax.imperfections import Imperfections
from dvg_jax.keys import named
from dvg_jax.metrics import psnr_volume
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.lpips import load_lpips, lpips
from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage, Volume, Volumes
from dvg_jax.stages.base import Example, Metrics, Stage
from dvg_jax.stages.latent import diffusion_requires
from dvg_jax.xray.views import Angles, ViewSets

STEPS = 4
"""The CTs to be corrected are sampled in so many steps; more change them little."""

LEAST_GAIN = 0.02
"""A refiner that lowers the squared error by less than this share counts as the identity."""


@dataclass(frozen=True)
class RefineWeights:
    """Hold the fields of ``config.refine.loss`` and their defaults; the squared error has weight 1."""

    l1: float = 0.0
    perceptual: float = 0.0  # LPIPS (VGG) of one random axial slice; 0 leaves it out

    def constants(self) -> Variables:
        """Return the weights of LPIPS, if it is used."""
        return {"lpips": load_lpips("vgg")} if self.perceptual else {}


@dataclass(frozen=True)
class RefineTask:
    """Train the refiner on DVG-Net's CTs, and on their means with those of the diffusion model."""

    dvg: DVG
    weights: RefineWeights

    def constants(self, frozen: VariablesByStage) -> Variables:
        return self.weights.constants()

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        return {"model": init_rounds(self.dvg, key, example["ct"], self._angles(example))}, {}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the error after each round; all but the last count half: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``ct`` (B, D, H, W, 1), and the CTs to be corrected, ``starts`` (B, S, D, H, W, 1), of which one is
            drawn at each step, as its films are; with drawn views ``angles`` and ``weights``, (B, V).
        """
        key_start, key_slice, key_films = jax.random.split(key, 3)
        ct, starts = example["ct"], example["starts"]
        choice = jax.random.randint(key_start, (len(ct),), 0, starts.shape[1])
        start = jax.vmap(lambda cts, i: cts[i])(starts, choice)
        angles = self._angles(example)
        rounds = self.dvg.refine(params["model"], start, self.dvg.films(ct, angles, key_films), angles)
        loss, metrics = rounds_loss(rounds, ct, self.weights, constants, key_slice)
        return loss, (model_state, {"before": jnp.mean((start - ct) ** 2), **metrics})

    def _angles(self, example: Example) -> Angles:
        return ViewSets(example["angles"], example["weights"]) if "angles" in example else self.dvg.angles


def init_rounds(dvg: DVG, key: Key, ct: Volumes, angles: Angles) -> Variables:
    """Draw the networks of all rounds of a method's refinement.

    Args:
      dvg: the method.
      key: decides the weights.
      ct: (B, D, H, W, 1); only its shape counts.
      angles: of its X-rays, in degrees.
    """
    refinement = dvg.refinement
    x = jax.eval_shape(lambda ct: refinement.features(ct, dvg.render(ct, angles), angles), ct)
    names = [f"round_{i}" for i in range(refinement.rounds)]
    return {name: init_variables(refinement.refiner, named(key, name), x)["params"] for name in names}


def rounds_loss(
    rounds: list[Volumes], ct: Volumes, weights: RefineWeights, constants: Variables, key: Key
) -> tuple[jax.Array, Metrics]:
    """Return the loss of corrected CTs, (B, D, H, W, 1) after each round; the rounds before the last count half.

    Args:
      rounds: from :meth:`dvg_jax.dvg.DVG.refine`.
      ct: the truth, (B, D, H, W, 1).
      weights: of the terms.
      constants: from :meth:`RefineWeights.constants`.
      key: decides the slices.
    """
    errors = [jnp.mean((x - ct) ** 2) for x in rounds]
    last, loss = rounds[-1], (sum(errors) + errors[-1]) / 2
    metrics = {"after": errors[-1]}
    if weights.l1:
        loss += weights.l1 * jnp.mean(jnp.abs(last - ct))
    if weights.perceptual:
        slices = jax.random.randint(key, (len(ct),), 0, ct.shape[1])
        pair = (jax.vmap(lambda v, i: v[i])(x, slices) for x in (ct, last))
        metrics["perceptual"] = jnp.mean(lpips(constants["lpips"], *pair))
        loss += weights.perceptual * metrics["perceptual"]
    return loss, metrics


def refine_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of the refiner, which corrects results of all stages before it."""
    requires = (*diffusion_requires(dvg), "diffusion") if dvg.use_diffusion else ("ct_vqgan", "view_vqgan", "new_view")
    quick = dvg.quick(STEPS)

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        key_views, key_sample = jax.random.split(key)
        views, angles = dvg.input_views(ct, key_views)
        made = quick.estimates(frozen, views, angles, key_sample)
        starts = [made.blended] if made.first is None else [made.blended, made.first]
        drawn = angles._asdict() if isinstance(angles, ViewSets) else {}
        return {"ct": ct, "starts": jnp.stack(starts, 1), **drawn}

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
    """Say so on stderr where the network changes nothing at a validation or the end: too high a rate can do that."""
    before, after = 0.0, 0.0
    for example in examples:
        metrics = _errors(task, params, example)
        before, after = before + float(metrics["before"]), after + float(metrics["after"])
    if after > (1 - LEAST_GAIN) * before:
        _say_identity(f"{after / before:.3f}")


@cache
def _say_identity(share: str) -> None:
    """Print the warning; once, though the last validation and the finished model are the same network."""
    print(
        f"warning: refine: the error on training examples is {share} of what it was before; the network changes "
        "nothing, try half the config.refine.train.learning_rate",
        file=sys.stderr,
    )


@partial(jax.jit, static_argnums=0)
def _errors(task: RefineTask, params: Variables, example: Example) -> Metrics:
    ideal = replace(task.dvg, imperfections=Imperfections())
    quiet = replace(task, weights=RefineWeights(), dvg=ideal)
    return quiet.loss({"model": params}, {}, {}, example, jax.random.key(0), jnp.zeros((), jnp.int32))[1][1]
