"""Define the 3D U-Net of DVG-Net (G_z) and of the denoiser (g_theta).

    x -- init_conv -+- temporal -- downs 0 -- downs 1 -- mid -- ups 0 -- ups 1 --+-- final_conv -- out
                    |                 |          '---- concat ----'         |    |
                    |                 '-------------- concat ---------------'    |
                    '------------------------------ concat ----------------------'

Convolutions act on H and W of one D-slice; only temporal attention mixes the slices; D is never reduced. Each
stage is two residual blocks, linear attention over H x W, temporal attention along D, then H and W halved or
doubled (all but the last). Modules are named after the published checkpoint's keys, ``_`` for ``.`` before a
number.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.networks.attention import LinearAttention, SpatialAttention, TemporalAttention
from dvg_jax.networks.blocks import Conv, ConvTranspose, GroupNorm, fan_in_uniform
from dvg_jax.networks.positional import RelativePositionBias, time_features
from dvg_jax.shapes import Features, NewChannels, Times

PAD_HW = ((0, 0), (1, 1), (1, 1))


class Block(nn.Module):
    """Apply convolution (``depth`` x 3 x 3), group norm, the time's scale and shift if given, and SiLU."""

    features: int
    groups: int
    depth: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, scale_shift: tuple[Array, Array] | None = None) -> NewChannels:
        kinds: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        padding = ((self.depth // 2,) * 2, (1, 1), (1, 1))
        x = Conv(self.features, (self.depth, 3, 3), padding=padding, name="proj", **kinds)(x)
        x = GroupNorm(self.groups, 1e-5, jnp.float32, self.param_dtype, name="norm")(x)
        if scale_shift is not None:
            # In float32, since their gradients sum over all voxels, as a bias's does.
            scale, shift = (y.astype(jnp.float32) for y in scale_shift)
            x = x * (scale + 1) + shift
        return nn.silu(x.astype(self.dtype))


class ResnetBlock(nn.Module):
    """Apply two blocks and a shortcut; the time scales and shifts the first block only."""

    features: int
    groups: int
    depth: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, time: Float[Array, "B time"] | None = None) -> NewChannels:
        kinds: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        scale_shift = None
        if time is not None:
            y = nn.Dense(2 * self.features, kernel_init=fan_in_uniform, name="mlp_1", **kinds)(nn.silu(time))
            scale, shift = jnp.split(y[:, None, None, None], 2, axis=-1)
            scale_shift = scale, shift
        h = Block(self.features, self.groups, self.depth, name="block1", **kinds)(x, scale_shift)
        h = Block(self.features, self.groups, self.depth, name="block2", **kinds)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1, 1), name="res_conv", **kinds)(x)
        return h + x


class TimeMLP(nn.Module):
    """Map the diffusion time to the vector that every residual block reads."""

    dim: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, t: Times) -> Float[Array, "B time"]:
        kinds: dict[str, Any] = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "kernel_init": fan_in_uniform,
        }
        x = nn.Dense(4 * self.dim, name="1", **kinds)(time_features(t, self.dim))
        return nn.Dense(4 * self.dim, name="3", **kinds)(jax.nn.gelu(x, approximate=False))


class UNet3D(nn.Module):
    """Map (B, D, H, W, C), (B,) to (B, D, H, W, out_dim) in the input's type; C follows from the input.

    Stage i has ``dim * dim_mults[i]`` channels; every attention is ``heads * head_dim`` wide at every stage.
    ``dtype`` is the compute type; norms, softmaxes and rotations are float32. ``remat`` computes residual
    blocks and attentions again in the backward pass instead of storing their intermediate values.

    Raises:
      UserError: H or W is not divisible by 2^(stages - 1), or ``head_dim`` is odd.
    """

    dim: int = 64
    dim_mults: tuple[int, ...] = (1, 2, 4, 8)
    out_dim: int = 8
    heads: int = 8
    head_dim: int = 32
    groups: int = 8
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Features, t: Times) -> NewChannels:
        self._check(x)
        kinds: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        wrap = nn.remat if self.remat else lambda module: module

        def resnet(name: str, features: int) -> nn.Module:
            return wrap(ResnetBlock)(features, self.groups, name=name, **kinds)

        def attention(kind: type[nn.Module], name: str) -> nn.Module:
            return wrap(kind)(self.heads, self.head_dim, name=name, **kinds)

        def resample(kind: type[nn.Module], name: str, features: int) -> nn.Module:
            return kind(features, (1, 4, 4), (1, 2, 2), padding=PAD_HW, name=name, **kinds)

        bias = RelativePositionBias(self.heads, self.param_dtype, name="time_rel_pos_bias")(x.shape[1])
        time = TimeMLP(self.dim, name="time_mlp", **kinds)(t)
        outer = [self.dim * m for m in self.dim_mults]
        inner = [self.dim, *outer[:-1]]
        last = len(outer) - 1

        y = r = Conv(self.dim, (1, 3, 3), padding=PAD_HW, name="init_conv", **kinds)(x)
        y = attention(TemporalAttention, "init_temporal_attn")(y, bias)

        skips = []
        for i, width in enumerate(outer):
            y = resnet(f"downs_{i}_0", width)(y, time)
            y = resnet(f"downs_{i}_1", width)(y, time)
            y = attention(LinearAttention, f"downs_{i}_2")(y)
            y = attention(TemporalAttention, f"downs_{i}_3")(y, bias)
            skips.append(y)
            if i < last:
                y = resample(Conv, f"downs_{i}_4", width)(y)

        y = resnet("mid_block1", outer[-1])(y, time)
        y = attention(SpatialAttention, "mid_spatial_attn")(y)
        y = attention(TemporalAttention, "mid_temporal_attn")(y, bias)
        y = resnet("mid_block2", outer[-1])(y, time)

        for i, width in enumerate(reversed(inner)):
            y = jnp.concatenate([y, skips.pop()], axis=-1)
            y = resnet(f"ups_{i}_0", width)(y, time)
            y = resnet(f"ups_{i}_1", width)(y, time)
            y = attention(LinearAttention, f"ups_{i}_2")(y)
            y = attention(TemporalAttention, f"ups_{i}_3")(y, bias)
            if i < last:
                y = resample(ConvTranspose, f"ups_{i}_4", width)(y)

        y = resnet("final_conv_0", self.dim)(jnp.concatenate([y, r], axis=-1))
        return Conv(self.out_dim, (1, 1, 1), name="final_conv_1", **kinds)(y).astype(x.dtype)

    def _check(self, x: Features) -> None:
        if x.ndim != 5:
            raise UserError(f"UNet3D's input has shape {x.shape}; allowed: (B, D, H, W, C)")
        factor = 2 ** (len(self.dim_mults) - 1)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise UserError(
                f"UNet3D's input is {x.shape[2]} x {x.shape[3]} in H x W; allowed: multiples of {factor}, "
                f"which {len(self.dim_mults)} stages halve {len(self.dim_mults) - 1} times"
            )
        if self.head_dim % 2:
            raise UserError(f"UNet3D's head_dim is {self.head_dim}; allowed: even numbers (rotations act on pairs)")
