"""Define g_theta: the 3D U-Net whose input is the condition and z_t, concatenated along the channels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.networks.blocks import Conv
from dvg_jax.shapes import Features, Latent, Times, Variables


class Stem(nn.Module):
    """Reduce V_bp to latent size without VPGE: one strided convolution per factor of two, learned with g_theta.

    The latent reading of the paper's Base- and NewView-Diffusion (Table II), which says only that VPGE is absent.
    """

    features: int
    downsample: int = 4
    width: int = 32

    @nn.compact
    def __call__(self, x: Features) -> Latent:
        levels = self.downsample.bit_length() - 1
        for i in range(levels):
            features = self.features if i == levels - 1 else self.width
            x = Conv(features, (4, 4, 4), (2, 2, 2), padding=((1, 1),) * 3, name=f"conv_{i}")(x)
            x = x if i == levels - 1 else nn.silu(x)
        return x


class ConditionalDenoiser(nn.Module):
    """Predict z_0 from z_t, t and the condition blocks, which come first in the channels.

    With ``stem`` each block is a volume (B, D, H, W, 1) and passes a stem of its own; without, it is a latent.
    """

    unet: nn.Module
    stem: bool = False
    downsample: int = 4

    @nn.nowrap
    def predict(self, arguments: tuple[Any, tuple[Array, ...]], z: Latent, t: Times) -> Latent:
        """Predict z_0 in the form that a sampler calls.

        Args:
          arguments: the parameters, and the condition blocks.
          z: z_t, (B, d, h, w, c).
          t: times, (B,), from 0.
        """
        params, condition = arguments
        return self.apply({"params": params}, condition, z, t)

    @nn.nowrap
    def prepared(self, params: Variables) -> Variables:
        """Return the parameters for many predictions: the U-Net's kernels in its compute type, cast once."""

        def cast(path: tuple[Any, ...], value: Array) -> Array:
            return value.astype(self.unet.dtype) if path[-1].key == "kernel" else value

        return {**params, "unet": jax.tree_util.tree_map_with_path(cast, params["unet"])}

    @nn.compact
    def __call__(self, condition: tuple[Array, ...], z: Latent, t: Times) -> Latent:
        """Predict z_0.

        Args:
          condition: blocks with the batch and spatial axes of ``z``; with ``stem``, volumes (B, D, H, W, 1).
          z: z_t, (B, d, h, w, c).
          t: times, (B,), from 0.
        """
        if self.stem:
            condition = tuple(
                Stem(z.shape[-1], self.downsample, name=f"stem_{i}")(block) for i, block in enumerate(condition)
            )
        return self.unet(jnp.concatenate([*condition, z], axis=-1), t)
