"""What ``benchmarks/networks.py`` runs: one task of a network, ours and PyTorch's, on equal weights and inputs.

Weights are drawn by PyTorch and reach ours through ``dvg_jax.torch_import``, as released ones do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from benchmarks.contest import Contestant, Figures
from benchmarks.torch_peer import adversary, unet3d, vqgan3d
from benchmarks.torch_peer.training import DiffusionStep, Manner, VQGANStep
from dvg_jax import torch_import
from dvg_jax.config import default_config
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import small, tiny
from dvg_jax.dvg import DVG
from dvg_jax.latents import latent_shape
from dvg_jax.stages.adversary import Weights
from dvg_jax.stages.latent import DiffusionTask
from dvg_jax.stages.vqgan import VQGANTask
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, TrainState, update


@dataclass(frozen=True)
class Size:
    """A preset at one edge length; batches of the U-Net and of the VQGAN, and the critics' width."""

    preset: Callable[[], ConfigDict]
    edge: int
    unet_batch: int
    vqgan_batch: int
    critics: int

    def config(self, dtype: str = "float32") -> ConfigDict:
        config = self.preset()
        config.size, config.dtype = self.edge, dtype
        return config


SIZES = {
    "demo": Size(tiny, 32, unet_batch=4, vqgan_batch=1, critics=8),
    "small": Size(small, 64, unet_batch=2, vqgan_batch=1, critics=16),
    "wide": Size(default_config, 64, unet_batch=1, vqgan_batch=1, critics=64),
    "paper": Size(default_config, 128, unet_batch=2, vqgan_batch=2, critics=64),
}
"""The quickstart's; half-wide networks at 64^3; the paper's networks at 64^3 and at 128^3."""


def architecture(settings: ConfigDict) -> dict[str, Any]:
    """A network's settings but for ``remat``, which changes no number and which the peers do not have."""
    return {name: value for name, value in settings.items() if name != "remat"}


def as_numpy(state: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of tensors by name, such as a state dict."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}


def _gradients(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """By the state dict's names, with the buffers in between."""
    return as_numpy(module.state_dict() | {name: p.grad for name, p in module.named_parameters()})


def _flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def _first_gradient(state: TrainState, group: str, beta1: float) -> np.ndarray:
    """The gradient of the first step: what Adam's first moment was made from."""
    return _flat(optax.tree.get(state.opt_state.inner_states[group], "mu")[group]) / (1 - beta1)


class _Step:
    """Our training step, going on from its own state."""

    def __init__(self, task: Any, training: Training, params: Any, state: Any, batch: Any, key: jax.Array) -> None:
        self.program, self.batch = Step(task, training.recipe), batch
        ema = jax.tree.map(jnp.copy, params["model"]) if training.ema_decay else None
        optimizer = training.recipe.optimizer(tuple(params)).init(params)
        self.state = TrainState(jnp.zeros((), jnp.int32), params, state, optimizer, ema)
        self.fixed, self.rate = Fixed({}, task.constants({}), key), jnp.asarray(training.learning_rate)
        self.first: tuple[TrainState, Any] | None = None

    def __call__(self) -> Any:
        self.state, metrics = update(self.program, self.state, self.fixed, self.batch, self.rate)
        if self.first is None:
            # The next step donates the state's buffers.
            self.first = jax.tree.map(np.asarray, (self.state, metrics))
        return jax.block_until_ready((self.state, metrics))


class UNetForward:
    """One denoising call of g_theta."""

    def __init__(self, size: Size) -> None:
        self.size, self.training = size, Training(**size.config().diffusion.train)
        self.key, dvg = jax.random.key(0), self.dvg("float32")
        shape = latent_shape(dvg.ct_vqgan, (size.unet_batch, *dvg.geometry.volume_shape))
        self.unet = dvg.denoiser.unet
        draw = np.random.default_rng(0).standard_normal
        self.condition = tuple(draw(shape).astype(np.float32) for _ in range(2))
        self.z0 = draw(shape).astype(np.float32)
        # The draws of ``DVG.loss`` in a first step.
        key_t, key_noise = jax.random.split(jax.random.fold_in(self.key, 0))
        self.t = np.asarray(jax.random.randint(key_t, shape[:1], 0, dvg.schedule.timesteps))
        self.noise = np.asarray(jax.random.normal(key_noise, shape))
        self.schedule = dvg.schedule

    def dvg(self, dtype: str) -> DVG:
        return build_dvg(self.size.config(dtype))

    def peer(self) -> unet3d.UNet3D:
        torch.manual_seed(0)
        u, channels = self.unet, 3 * self.z0.shape[-1]
        return unet3d.UNet3D(channels, u.dim, u.dim_mults, u.out_dim, u.heads, u.head_dim, u.groups)

    @cached_property
    def params(self) -> Any:
        return {"unet": torch_import.unet3d(as_numpy(self.peer().state_dict()))[1]["params"]}

    def ours(self, dtype: str) -> Contestant:
        apply, arguments = jax.jit(self.dvg(dtype).denoiser.predict), (self.params, self.condition)
        inputs = jax.device_put((arguments, self.z0, self.t))

        def run() -> jax.Array:
            return jax.block_until_ready(apply(*inputs))

        return Contestant(run, lambda: {"output": np.asarray(run())})

    def theirs(self, manner: Manner) -> Contestant:
        model = manner.place(self.peer().eval())
        blocks, t = [manner.tensor(a) for a in (*self.condition, self.z0)], manner.tensor(self.t)

        def run() -> torch.Tensor:
            with torch.inference_mode(), manner.autocast():
                y = model(torch.cat(blocks, dim=1), t)
            manner.wait()
            return y

        return Contestant(run, lambda: {"output": run().float().movedim(1, -1).cpu().numpy()})


class UNetStep(UNetForward):
    """A training step of g_theta: Eq. (6), Adam, averaged weights."""

    def ours(self, dtype: str) -> Contestant:
        example = {"z0": self.z0, "condition_0": self.condition[0], "condition_1": self.condition[1]}
        params = jax.tree.map(jnp.copy, {"model": self.params})
        step = _Step(DiffusionTask(self.dvg(dtype)), self.training, params, {}, jax.device_put(example), self.key)

        def figures() -> Figures:
            state, metrics = step.first
            return {"loss": metrics["loss"], "gradient": _first_gradient(state, "model", self.training.beta1)}

        return Contestant(step, figures)

    def theirs(self, manner: Manner) -> Contestant:
        model = self.peer()
        step = DiffusionStep(model, self.schedule, self.training.recipe, self.training.learning_rate, manner)
        condition = tuple(manner.tensor(c) for c in self.condition)
        inputs = [manner.tensor(a) for a in (self.z0, self.t, self.noise)]
        first: Figures = {}

        def run() -> None:
            loss = step(condition, *inputs)
            manner.wait()
            if not first:
                gradient = torch_import.unet3d(_gradients(model))[1]["params"]
                first.update(loss=loss.cpu().numpy(), gradient=_flat({"unet": gradient}))

        return Contestant(run, lambda: first)


class VQGANTraining:
    """A training step of the CT's VQGAN: L1, commitment and codebook; with ``critics`` LPIPS and both of them."""

    def __init__(self, size: Size, critics: bool) -> None:
        config = size.config().ct_vqgan
        on = {} if critics else {"perceptual": 0.0, "gan": 0.0, "feature_matching": 0.0}
        self.weights = Weights(gan_start=0, disc_width=size.critics, **on)
        self.size, self.training = size, Training(**config.train)
        self.fields, self.with_critics = architecture(config.network), critics
        self.key = jax.random.key(0)
        self.x = np.asarray(jax.random.uniform(jax.random.key(1), (size.vqgan_batch, *[size.edge] * 3, 1)))
        # The draw of ``Adversary.loss`` in a first step.
        key_slices = jax.random.split(jax.random.fold_in(self.key, 0))[1]
        self.slices = np.asarray(jax.random.randint(key_slices, (len(self.x),), 0, size.edge))

    def peer(self) -> tuple[vqgan3d.VQGAN3D, dict[str, adversary.PatchDiscriminator]]:
        """Codes are drawn like the latents of the batch, so that many of them are in use."""
        torch.manual_seed(0)
        model = vqgan3d.VQGAN3D(**self.fields)
        critics = {"slices": 2, "volume": 3} if self.with_critics else {}
        judges = {k: adversary.PatchDiscriminator(dims, self.size.critics) for k, dims in critics.items()}
        with torch.no_grad():
            rows = model.encode(torch.tensor(self.x).movedim(-1, 1)).movedim(1, -1).flatten(0, -2)
            codes = rows.mean(0) + rows.std(0) * torch.randn(model.codebook.embeddings.shape)
        for buffer, value in zip(model.codebook.buffers(), (codes, torch.ones(len(codes)), codes), strict=True):
            buffer.copy_(value)
        return model, judges

    def ours(self, dtype: str) -> Contestant:
        model, judges = self.peer()
        network, variables = torch_import.vqgan3d(as_numpy(model.state_dict()), self.fields["num_groups"])
        critics = {
            name: torch_import.patch_discriminator(as_numpy(judge.state_dict()), 2 if name == "slices" else 3)[1]
            for name, judge in judges.items()
        }
        params, state = {"model": variables["params"]}, {"codebook": variables["codebook"]}
        if critics:
            params["critics"] = {name: c["params"] for name, c in critics.items()}
            state["critics"] = {name: c["batch_stats"] for name, c in critics.items()}
        task = VQGANTask(replace(network, dtype=jnp.dtype(dtype), parent=None), self.weights)
        step = _Step(task, self.training, params, state, {"x": jax.device_put(self.x)}, self.key)

        def figures() -> Figures:
            state, metrics = step.first
            gradients = {f"gradient of {g}": _first_gradient(state, g, self.training.beta1) for g in params}
            book = state.model_state["codebook"]
            return {"loss": metrics["loss"], **gradients, "codes' use": book["N"], "codes' sums": book["z_avg"]}

        return Contestant(step, figures)

    def theirs(self, manner: Manner) -> Contestant:
        model, judges = self.peer()
        step = VQGANStep(model, judges, self.weights, self.training.recipe, self.training.learning_rate, manner)
        x, slices = manner.tensor(self.x), manner.tensor(self.slices)
        first: Figures = {}

        def run() -> None:
            loss = step(x, slices)
            manner.wait()
            if not first:
                first.update({"loss": loss.cpu().numpy(), **self._gradients_and_codes(model, judges)})

        return Contestant(run, lambda: first)

    def _gradients_and_codes(self, model: vqgan3d.VQGAN3D, judges: dict[str, adversary.PatchDiscriminator]) -> Figures:
        found = torch_import.vqgan3d(_gradients(model), self.fields["num_groups"])[1]
        gradients = {"gradient of model": _flat(found["params"])}
        if judges:
            critics = {
                name: torch_import.patch_discriminator(_gradients(judge), 2 if name == "slices" else 3)[1]["params"]
                for name, judge in judges.items()
            }
            gradients["gradient of critics"] = _flat(critics)
        return gradients | {
            "codes' use": _flat(found["codebook"]["N"]),
            "codes' sums": np.asarray(found["codebook"]["z_avg"]),
        }


CASES: dict[str, Callable[[Size], Any]] = {
    "unet forward": UNetForward,
    "unet step": UNetStep,
    "vqgan step": lambda size: VQGANTraining(size, critics=False),
    "vqgan step with critics": lambda size: VQGANTraining(size, critics=True),
}
