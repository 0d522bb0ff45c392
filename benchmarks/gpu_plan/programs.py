"""Build the programs of training and reconstruction from shapes alone, ready to be compiled for other devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, SingleDeviceSharding
from ml_collections import ConfigDict

from benchmarks.full_size import paper_config
from dvg_jax.config import PAPER_STAGES
from dvg_jax.config.build import build_dvg
from dvg_jax.diffusion import samplers
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.latents import decode, encode, first_latent, latent_shape
from dvg_jax.stages import build_stage
from dvg_jax.training.examples import made_ahead
from dvg_jax.training.optim import Training
from dvg_jax.training.sharding import Layout, replicated, rows_split
from dvg_jax.training.state import Fixed, Step, create, update

SMALL = (16, 16, 16)
"""A state's shapes are built from a dummy volume of this size: what is learned does not depend on it."""

SAMPLING_STEPS = (100, 10)


@dataclass(frozen=True)
class Case:
    """Select a variant of a program.

    Attributes:
      size: edge of the volume in voxels.
      dtype: compute type of the networks.
      remat: recompute blocks of the trained network in the backward pass.
      batch: rows; None is the config's batch in training, and one case otherwise.
      split: store the training state in shares, where there are several devices.
      change: changes the config in place, before the program is built from it.
    """

    size: int = 128
    dtype: str = "bfloat16"
    remat: bool = False
    batch: int | None = None
    split: bool = False
    change: Callable[[ConfigDict], None] | None = None

    def config(self, stage: str | None = None) -> ConfigDict:
        """Return the paper's config with this case's choices, some of which belong to a stage."""
        config = paper_config(self.size, self.dtype)
        if stage is not None:
            config[stage].network.remat = self.remat
            config[stage].train.batch_size = self.batch or config[stage].train.batch_size
        if self.change is not None:
            self.change(config)
        return config


@dataclass(frozen=True)
class Place:
    """Place arrays on devices that exist only for the compiler: on one, or on a mesh along axis ``data``."""

    devices: Sequence[Any]

    @property
    def mesh(self) -> Mesh | None:
        """Return the mesh of several devices; None of one."""
        if len(self.devices) == 1:
            return None
        return jax.make_mesh((len(self.devices),), ("data",), (AxisType.Auto,), devices=self.devices)

    def whole(self, tree: Any) -> Any:
        """Return the shapes of a tree's arrays, each whole on every device."""
        return _shapes(tree, SingleDeviceSharding(self.devices[0]) if self.mesh is None else replicated(self.mesh))

    def rows(self, tree: Any) -> Any:
        """Return the shapes of a tree's arrays, each split along its first axis."""
        return _shapes(tree, SingleDeviceSharding(self.devices[0]) if self.mesh is None else rows_split(self.mesh))


def lower(name: str, case: Case, devices: Sequence[Any]) -> jax.stages.Lowered:
    """Trace a program of :data:`PROGRAMS` and lower it for devices.

    Args:
      name: of the program.
      case: selects its variant.
      devices: from :func:`benchmarks.gpu_plan.targets.devices`; several only for a training step.
    """
    return PROGRAMS[name](case, Place(devices))


def training_step(stage_name: str, case: Case, place: Place) -> jax.stages.Lowered:
    """Lower the training step of a stage, with its critics at work and LPIPS where it has them.

    Raises:
      UserError: the batch does not split over the devices.
    """
    config = case.config(stage_name)
    dvg = build_dvg(config)
    stage, training = build_stage(stage_name, config, dvg), Training(**config[stage_name].train)
    if training.batch_size % len(place.devices):
        raise UserError(f"--batch is {training.batch_size}; allowed: multiples of the {len(place.devices)} devices")
    ct = jax.ShapeDtypeStruct((training.batch_size, *dvg.geometry.volume_shape, 1), jnp.float32)
    frozen = {name: variable_shapes(dvg, name) for name in stage.requires}
    example = jax.eval_shape(stage.prepare, frozen, ct, _key())
    small = jax.tree.map(lambda x: jnp.zeros((x.shape[0], *SMALL, x.shape[-1])), example)
    step, batch = Step(stage.task, training.recipe), example
    state = create(step, jax.random.key(0), small)
    if not made_ahead(config, stage):
        step, batch = replace(step, prepare=stage.prepare), {"ct": ct}
    fixed = Fixed(frozen if step.prepare else {}, stage.task.constants(frozen), _key())
    placed = place.whole(state)
    if place.mesh is not None:
        layout = Layout(place.mesh, case.split)
        step, placed = replace(step, layout=layout), _shapes(state, layout.of(state))
    rate = jnp.zeros(())
    return update.lower(step, placed, place.whole(fixed), place.rows(batch), place.whole(rate))


def encoder(case: Case, place: Place) -> jax.stages.Lowered:
    """Lower the encoder of the back-projected views."""
    dvg, variables = _method(case, "view_vqgan")
    volume = jax.ShapeDtypeStruct((case.batch or 1, *dvg.geometry.volume_shape, 1), jnp.float32)
    return encode.lower(dvg.view_vqgan, place.whole(variables), place.whole(volume))


def decoder(case: Case, place: Place) -> jax.stages.Lowered:
    """Lower the decoder of the CT, through the nearest codes."""
    dvg, variables = _method(case, "ct_vqgan")
    return decode.lower(dvg.ct_vqgan, True, place.whole(variables), place.whole(_latent(dvg, case)))


def generator(case: Case, place: Place) -> jax.stages.Lowered:
    """Lower G_z."""
    dvg, variables = _method(case, "new_view")
    params = variables["params"]
    return first_latent.lower(dvg.generator, place.whole(params), place.whole(_latent(dvg, case)))


def denoiser(case: Case, place: Place) -> jax.stages.Lowered:
    """Lower one forward pass of g_theta."""
    dvg, variables = _method(case, "diffusion")
    z = _latent(dvg, case)
    t = jax.ShapeDtypeStruct(z.shape[:1], jnp.int32)
    arguments = (variables["params"], (z, z))
    return jax.jit(dvg.denoiser.predict).lower(*place.whole((arguments, z, t)))


def sampler(steps: int, case: Case, place: Place) -> jax.stages.Lowered:
    """Lower the whole sampling of a latent, as one scan over ``steps`` steps."""
    dvg, variables = _method(case, "diffusion")
    z = _latent(dvg, case)
    chosen = replace(dvg.sampler, steps=steps)
    arguments = (jax.eval_shape(dvg.denoiser.prepared, variables["params"]), (z, z))
    table = chosen.coefficients(dvg.schedule)
    return samplers._scan.lower(dvg.denoiser, chosen.clip, *place.whole((arguments, _key(), table, z)))


PROGRAMS: dict[str, Callable[[Case, Place], jax.stages.Lowered]] = {
    **{f"{stage} step": partial(training_step, stage) for stage in PAPER_STAGES},
    "encoder": encoder,
    "G_z": generator,
    "g_theta": denoiser,
    **{f"sampler, {steps} steps": partial(sampler, steps) for steps in SAMPLING_STEPS},
    "decoder": decoder,
}
"""It maps each program's name to the function that lowers it."""


def variable_shapes(dvg: DVG, stage: str) -> dict[str, Any]:
    """Return the shapes of a stage's variables, without drawing any."""
    ct = jnp.zeros((1, *dvg.geometry.volume_shape, 1))
    z, t = jnp.zeros(latent_shape(dvg.ct_vqgan, ct.shape[:4])), jnp.zeros(1, jnp.int32)
    if stage == "new_view":
        return jax.eval_shape(dvg.generator.init, _key(), z, t)
    if stage == "diffusion":
        return jax.eval_shape(dvg.denoiser.init, _key(), (z, z), z, t)
    channel = jax.ShapeDtypeStruct(z.shape[-1:], jnp.float32)
    return jax.eval_shape(getattr(dvg, stage).init, _key(), ct) | {"statistics": {"mean": channel, "std": channel}}


def _method(case: Case, stage: str) -> tuple[DVG, dict[str, Any]]:
    dvg = build_dvg(case.config())
    return dvg, variable_shapes(dvg, stage)


def _latent(dvg: DVG, case: Case) -> jax.ShapeDtypeStruct:
    shape = latent_shape(dvg.ct_vqgan, (case.batch or 1, *dvg.geometry.volume_shape))
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def _shapes(tree: Any, shardings: Any) -> Any:
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
