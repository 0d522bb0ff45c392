"""Define the two stages that learn in latent space: G_z (``new_view``) and g_theta (``diffusion``)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.dvg import DVG, Condition
from dvg_jax.metrics import psnr_volume
from dvg_jax.networks.init import init_variables
from dvg_jax.shapes import Key, Latent, Variables, VariablesByGroup, VariablesByStage, Volume, Volumes
from dvg_jax.stages.base import Example, Metrics, Stage

PREVIEW_STEPS = 10
"""Sampling steps of the pictures that are logged in training."""


@dataclass(frozen=True)
class LatentWeights:
    """Hold the fields of ``config.new_view.loss`` and their defaults; the latent's squared error has weight 1."""

    pixel: float = 0.0  # of the squared error of the decoded CT; 0 leaves it out
    pixel_start: int = 0  # steps


@dataclass(frozen=True)
class NewViewTask:
    """Train G_z, Eq. (8): from z_in to the CT's latent, by its squared error, and the decoded CT's with a weight."""

    dvg: DVG
    weights: LatentWeights = LatentWeights()

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {"ct_vqgan": frozen["ct_vqgan"]} if self.weights.pixel else {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        times = jnp.zeros(len(example["z_in"]), jnp.int32)
        variables = init_variables(self.dvg.generator, key, example["z_in"], times)
        return {"model": variables["params"]}, {}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the mean squared error of the latent: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``z_in`` and ``z0``, (B, d, h, w, c); with the second loss ``ct``, (B, D, H, W, 1).
        """
        z = self.dvg.first_latent(params["model"], example["z_in"])
        loss = jnp.mean((z - example["z0"]) ** 2)
        if not self.weights.pixel:
            return loss, (model_state, {})

        def pixel_loss(z: Latent) -> jax.Array:
            return jnp.mean((self.dvg.decode(constants, z) - example["ct"]) ** 2)

        started = step >= self.weights.pixel_start
        pixel = jax.lax.cond(started, pixel_loss, lambda z: jnp.zeros(()), z)
        return loss + self.weights.pixel * pixel, (model_state, {"pixel": pixel})


@dataclass(frozen=True)
class DiffusionTask:
    """Train g_theta, Eq. (6); with ``dvg.residual`` the first batch decides the scale of its target."""

    dvg: DVG

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        z0, condition = example["z0"], _condition(example)
        times = jnp.zeros(len(z0), jnp.int32)
        variables = init_variables(self.dvg.denoiser, key, condition, z0, times)
        if not self.dvg.residual:
            return {"model": variables["params"]}, {}
        std = jnp.std(z0 - condition[-1], axis=(0, 1, 2, 3))
        return {"model": variables["params"]}, {"statistics": {"std": jnp.maximum(std, 1e-6)}}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return Eq. (6): see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``z0``, (B, d, h, w, c), and the blocks ``condition_<i>``.
        """
        condition = _condition(example)
        target = self.dvg.target(model_state, condition, example["z0"])
        return self.dvg.loss(params["model"], condition, target, key), (model_state, {})


def new_view_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of DVG-Net's generator, with frozen encoders on both sides."""

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        z_in = dvg.view_latent(frozen, *dvg.input_views(ct, key))
        example = {"z_in": z_in, "z0": dvg.ct_latent(frozen, ct)}
        return example | ({"ct": ct} if weights.pixel else {})

    weights = LatentWeights(**config.new_view.loss)
    return Stage(
        "new_view", NewViewTask(dvg, weights), ("ct_vqgan", "view_vqgan"), prepare, _export, _show(dvg, "new_view")
    )


def diffusion_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of the latent diffusion model, conditioned on real and synthesised views."""

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        condition = dvg.condition(frozen, *dvg.input_views(ct, key))
        return {"z0": dvg.ct_latent(frozen, ct)} | {f"condition_{i}": c for i, c in enumerate(condition)}

    return Stage("diffusion", DiffusionTask(dvg), diffusion_requires(dvg), prepare, _export, _show(dvg, "diffusion"))


def diffusion_requires(dvg: DVG) -> tuple[str, ...]:
    """Name the stages that g_theta's condition and target are made by."""
    requires = ["ct_vqgan"]
    if dvg.use_vpge or dvg.new_angles:
        requires.append("view_vqgan")
    if dvg.use_vpge and dvg.new_angles:
        requires.append("new_view_vqgan")
    if dvg.new_angles:
        requires.append("new_view")
    return tuple(requires)


def _condition(example: Example) -> Condition:
    return tuple(example[name] for name in sorted(example) if name.startswith("condition_"))


def _export(params: Variables, model_state: Variables, examples: Iterator[Example]) -> Variables:
    return {"params": params, **model_state}


def _show(dvg: DVG, stage: str):  # type: ignore[no-untyped-def]
    """Return a function that reconstructs unseen cases with the stages trained so far."""
    quick = replace(dvg.quick(PREVIEW_STEPS), use_diffusion=stage == "diffusion")

    def show(variables: VariablesByStage, ct: Volumes, key: Key) -> tuple[Metrics, dict[str, Volume]]:
        result = quick.estimate(variables, dvg.render(ct, dvg.angles), dvg.angles, key)
        psnr = jnp.mean(jax.vmap(psnr_volume)(ct[..., 0], result[..., 0]))
        return {"psnr": psnr}, {"truth": ct[0, ..., 0], stage: result[0, ..., 0]}

    return show
