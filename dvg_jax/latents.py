"""Compile the pieces by which the method enters and leaves latent space; stages, evaluation and results share them."""

from functools import partial

import jax
import jax.numpy as jnp

from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.networks.vqgan3d import VQGAN3D
from dvg_jax.shapes import Latent, Variables, Volumes


@partial(jax.jit, static_argnums=0)
def encode(vqgan: VQGAN3D, variables: Variables, x: Volumes) -> Latent:
    """Return the latent before quantisation, standardised per channel by the statistics stored with the weights.

    Args:
      vqgan: the network.
      variables: of its stage.
      x: volumes, (B, D, H, W, 1), D in the networks' order.
    """
    h = vqgan.apply(variables, x, method="encode")
    return (h - variables["statistics"]["mean"]) / variables["statistics"]["std"]


@partial(jax.jit, static_argnums=(0, 1))
def decode(vqgan: VQGAN3D, quantized: bool, variables: Variables, z: Latent) -> Volumes:
    """Invert :func:`encode`.

    Args:
      vqgan: the network.
      quantized: replace the latent by the nearest codes before decoding.
      variables: of its stage.
      z: standardised latents, (B, d, h, w, c).
    """
    h = z * variables["statistics"]["std"] + variables["statistics"]["mean"]
    if quantized:
        codes, _ = vqgan.apply(variables, h, method="quantize")
        h = jnp.where(jnp.isfinite(h), codes, jnp.nan)  # NaN has a nearest code too
    return vqgan.apply(variables, h, method="decode")


@partial(jax.jit, static_argnums=0)
def first_latent(generator: UNet3D, params: Variables, z_in: Latent) -> Latent:
    """Apply G_z, Eq. (8). The time input of its U-Net is always 0.

    Args:
      generator: the network.
      params: of its stage.
      z_in: latents of views, (B, d, h, w, c).
    """
    return generator.apply({"params": params}, z_in, jnp.zeros(z_in.shape[:1], jnp.int32))


def latent_shape(vqgan: VQGAN3D, shape: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Return the shape (B, d, h, w, c) of the latent of a volume of shape (B, D, H, W)."""
    return (shape[0], *(n // f for n, f in zip(shape[1:], vqgan.downsample, strict=True)), vqgan.embedding_dim)
