"""Define the two stages that learn in latent space: G_z (``new_view``) and g_theta (``diffusion``)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.diffusion import Sampler
from dvg_jax.dvg import DVG, Condition
from dvg_jax.metrics import psnr_volume
from dvg_jax.networks.init import init_variables
from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage, Volume, Volumes
from dvg_jax.stages.base import Example, Metrics, Stage

PREVIEW_STEPS = 10
"""Sampling steps of the pictures that are logged in training."""


@dataclass(frozen=True)
class NewViewTask:
    """Train G_z, Eq. (8): from z_in to the CT's latent, by mean squared error."""

    dvg: DVG

    def constants(self) -> Variables:
        return {}

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
          example: ``z_in`` and ``z0``, (B, d, h, w, c).
        """
        error = self.dvg.first_latent(params["model"], example["z_in"]) - example["z0"]
        return jnp.mean(error**2), (model_state, {})


@dataclass(frozen=True)
class DiffusionTask:
    """Train g_theta, Eq. (6)."""

    dvg: DVG

    def constants(self) -> Variables:
        return {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        z0 = example["z0"]
        times = jnp.zeros(len(z0), jnp.int32)
        variables = init_variables(self.dvg.denoiser, key, _condition(example), z0, times)
        return {"model": variables["params"]}, {}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return Eq. (6): see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``z0``, (B, d, h, w, c), and the blocks ``condition_<i>``.
        """
        return self.dvg.loss(params["model"], _condition(example), example["z0"], key), (model_state, {})


def new_view_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of DVG-Net's generator, with frozen encoders on both sides."""

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        z_in = dvg.view_latent(frozen, *dvg.input_views(ct, key))
        return {"z_in": z_in, "z0": dvg.ct_latent(frozen, ct)}

    return Stage("new_view", NewViewTask(dvg), ("ct_vqgan", "view_vqgan"), prepare, _export, _show(dvg, "new_view"))


def diffusion_stage(config: ConfigDict, dvg: DVG) -> Stage:
    """Build the stage of the latent diffusion model, conditioned on real and synthesised views."""
    requires = ["ct_vqgan"]
    if dvg.use_vpge or dvg.new_angles:
        requires.append("view_vqgan")
    if dvg.use_vpge and dvg.new_angles:
        requires.append("new_view_vqgan")
    if dvg.new_angles:
        requires.append("new_view")

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        condition = dvg.condition(frozen, *dvg.input_views(ct, key))
        return {"z0": dvg.ct_latent(frozen, ct)} | {f"condition_{i}": c for i, c in enumerate(condition)}

    return Stage("diffusion", DiffusionTask(dvg), tuple(requires), prepare, _export, _show(dvg, "diffusion"))


def _condition(example: Example) -> Condition:
    return tuple(example[name] for name in sorted(example) if name.startswith("condition_"))


def _export(params: Variables, model_state: Variables, examples: Iterator[Example]) -> Variables:
    return {"params": params}


def _show(dvg: DVG, stage: str):  # type: ignore[no-untyped-def]
    """Return a function that reconstructs unseen cases with the stages trained so far."""
    steps = min(PREVIEW_STEPS, dvg.schedule.timesteps)
    preview = replace(dvg, use_diffusion=stage == "diffusion", sampler=Sampler(steps, eta=0.0, clip=dvg.sampler.clip))

    def show(variables: VariablesByStage, ct: Volumes, key: Key) -> tuple[Metrics, dict[str, Volume]]:
        result = preview.reconstruct(variables, preview.render(ct, dvg.angles), dvg.angles, key)
        psnr = jnp.mean(jax.vmap(psnr_volume)(ct[..., 0], result[..., 0]))
        return {"psnr": psnr}, {"truth": ct[0, ..., 0], stage: result[0, ..., 0]}

    return show
