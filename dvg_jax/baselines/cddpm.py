"""Define CDDPM: the paper's conditional diffusion model without view encoder, in two readings.

    pixel    V_bp and the noisy CT, both S^3, stacked as channels as in Palette (Saharia et al. 2022); no VQGAN
    latent   the pipeline's own Base-Diffusion: ``use_vpge`` and ``new_angles`` switched off, V_bp by a learned stem

The paper does not say which it ran; its tables give CDDPM and Base-Diffusion the same scores. With ``new_view`` it is
their NewView-Diffusion: V_bp of DVG-Net's frozen new view is added to the input, so that only the conditioning
differs. Loss, schedule and sampler are the pipeline's.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from dvg_jax.baselines.base import Baseline
from dvg_jax.diffusion import sample
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.finite import clipped
from dvg_jax.networks.attention import SpatialAttention
from dvg_jax.networks.blocks import Conv, ConvTranspose
from dvg_jax.networks.denoiser import ConditionalDenoiser
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.unet3d import ResnetBlock, TimeMLP, UNet3D
from dvg_jax.shapes import Features, Key, Times, Variables, VariablesByGroup, VariablesByStage, Views, Volumes
from dvg_jax.stages.base import Example, Metrics
from dvg_jax.stages.latent import diffusion_stage

SPACES = ("pixel", "latent")
TITLES = {False: "CDDPM", True: "NewView-Diffusion"}


class VolumeUNet(nn.Module):
    """Map (B, S, S, S, C), (B,) to (B, S, S, S, 1): the pipeline's U-Net, but halved along all three axes.

    Stage i has ``dim * dim_mults[i]`` channels and two 3 x 3 x 3 residual blocks; all voxels attend to each other
    where an edge has at most ``attention_size`` of them.
    """

    dim: int = 32
    dim_mults: tuple[int, ...] = (1, 2, 4, 8)
    heads: int = 4
    head_dim: int = 32
    attention_size: int = 16
    groups: int = 8
    remat: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, t: Times) -> Volumes:
        kinds: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        wrap = nn.remat if self.remat else lambda module: module
        time = TimeMLP(self.dim, name="time_mlp", **kinds)(t)
        outer = [self.dim * m for m in self.dim_mults]
        inner = [self.dim, *outer[:-1]]
        last = len(outer) - 1
        ends = ((1, 1),) * 3

        def resnet(name: str, features: int) -> nn.Module:
            return wrap(ResnetBlock)(features, self.groups, 3, name=name, **kinds)

        def attend(y: Features, name: str) -> Features:
            if y.shape[1] > self.attention_size:
                return y
            flat = y.reshape(y.shape[0], 1, -1, *y.shape[3:])
            return wrap(SpatialAttention)(self.heads, self.head_dim, name=name, **kinds)(flat).reshape(y.shape)

        y = Conv(self.dim, (3, 3, 3), padding=ends, name="init_conv", **kinds)(x)
        skips = []
        for i, width in enumerate(outer):
            y = resnet(f"downs_{i}_1", width)(resnet(f"downs_{i}_0", width)(y, time), time)
            y = attend(y, f"downs_{i}_attention")
            skips.append(y)
            if i < last:
                y = Conv(width, (4, 4, 4), (2, 2, 2), padding=ends, name=f"downs_{i}_half", **kinds)(y)
        y = resnet("mid_0", outer[-1])(y, time)
        y = resnet("mid_1", outer[-1])(attend(y, "mid_attention"), time)
        for i, width in enumerate(reversed(inner)):
            y = jnp.concatenate([y, skips.pop()], axis=-1)
            y = resnet(f"ups_{i}_1", width)(resnet(f"ups_{i}_0", width)(y, time), time)
            y = attend(y, f"ups_{i}_attention")
            if i < last:
                y = ConvTranspose(width, (4, 4, 4), name=f"ups_{i}_double", **kinds)(y)
        y = resnet("final", self.dim)(y, None)
        return Conv(1, (1, 1, 1), name="final_conv", **kinds)(y).astype(x.dtype)


@dataclass(frozen=True)
class PixelTask:
    """Train Eq. (6) with z_0 = the CT in [-1, 1]. Each V_bp is scaled to [-1, 1] by its largest value in training."""

    dvg: DVG

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        x = example["x"]
        variables = init_variables(self.dvg.denoiser, key, (x,), example["y"], jnp.zeros(len(x), jnp.int32))
        return {"model": variables["params"]}, {"largest": jnp.zeros(x.shape[-1])}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: Array,
    ) -> tuple[Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return Eq. (6): see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``x``, the V_bp as channels, and ``y``, CTs (B, D, H, W, 1) in [0, 1].
        """
        largest = jnp.maximum(model_state["largest"], jnp.max(example["x"], axis=(0, 1, 2, 3)))
        condition = (centred(example["x"], largest),)
        return self.dvg.loss(params["model"], condition, centred(example["y"]), key), ({"largest": largest}, {})


def centred(x: Features, largest: Array | float = 1.0) -> Features:
    """Scale [0, largest] to [-1, 1]."""
    return 2 * x / largest - 1


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build CDDPM in the space that ``config.baselines.cddpm.space`` names."""
    space = config.baselines.cddpm.space
    if space not in SPACES:
        raise UserError(f"config.baselines.cddpm.space is {space!r}; allowed: {', '.join(SPACES)}")
    return _pixel(config, dvg) if space == "pixel" else _latent(config, dvg)


def _pixel(config: ConfigDict, dvg: DVG) -> Baseline:
    unet = VolumeUNet(**config.baselines.cddpm.network, dtype=jnp.dtype(config.dtype))
    factor = 2 ** (len(unet.dim_mults) - 1)
    if config.size % factor:
        raise UserError(f"config.size is {config.size}; allowed for cddpm: multiples of {factor}")
    sampler = replace(dvg.sampler, clip=1.0)
    base = _base(config, dvg)
    pixel = replace(base, denoiser=ConditionalDenoiser(unet), sampler=sampler)

    # The condition has D in the order of the pipeline's networks, so the CT is turned into that order too.
    def input_features(variables: VariablesByStage, views: Views) -> Features:
        return jnp.concatenate(base.condition(variables, views, base.angles), axis=-1)

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        return {"x": input_features(frozen, base.render(ct, base.angles)), "y": base.turned(ct)}

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Volumes:
        own = variables["cddpm"]
        arguments = (own["params"], (centred(input_features(variables, views), own["largest"]),))
        shape = (len(views), *dvg.geometry.volume_shape, 1)
        x = sample(pixel.denoiser, arguments, key, shape, dvg.schedule, sampler)
        return base.turned(clipped((x + 1) / 2, 0, 1))

    requires = ("ct_vqgan", "view_vqgan", "new_view") if base.new_angles else ()
    return Baseline("cddpm", TITLES[config.baselines.cddpm.new_view], PixelTask(pixel), prepare, predict, requires)


def _base(config: ConfigDict, dvg: DVG) -> DVG:
    """Return the pipeline with its switches off, except for the new view if the config asks for it."""
    new_view = config.baselines.cddpm.new_view
    if new_view and not dvg.new_angles:
        raise UserError(
            "config.baselines.cddpm.new_view is True and new_angles is empty; allowed: angles to synthesise"
        )
    new_angles = dvg.new_angles if new_view else ()
    return replace(dvg, use_vpge=False, new_angles=new_angles, use_diffusion=True, residual=False)


def _latent(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build the pipeline's own Base-Diffusion under the baseline's name, so that both fit in one working folder."""
    channels = dvg.ct_vqgan.embedding_dim
    unet = UNet3D(**config.diffusion.network, out_dim=channels, dtype=jnp.dtype(config.dtype))
    denoiser = ConditionalDenoiser(unet, stem=True, downsample=dvg.ct_vqgan.downsample[0])
    base = replace(_base(config, dvg), denoiser=denoiser)
    stage = diffusion_stage(config, base)

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Volumes:
        condition = base.condition(variables, views, base.angles)
        return base.sample(variables, variables["cddpm"]["params"], condition, key)

    return Baseline(
        "cddpm", TITLES[config.baselines.cddpm.new_view], stage.task, stage.prepare, predict, stage.requires
    )
