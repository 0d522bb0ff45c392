"""Make the tiny model with random weights, where training would change nothing about a test."""

from typing import Any

import jax
import jax.numpy as jnp

from dvg_jax.config.build import build_dvg
from dvg_jax.latents import latent_shape
from dvg_jax.networks.init import init_variables
from dvg_jax.reconstruct.reconstructor import Reconstructor
from tests.tiny import get_config


def untrained_variables() -> dict[str, Any]:
    """Return variables by stage."""
    dvg, key = build_dvg(get_config()), jax.random.key(0)
    volume, t = jnp.zeros((1, *dvg.geometry.volume_shape, 1)), jnp.zeros(1, jnp.int32)
    z = jnp.zeros(latent_shape(dvg.ct_vqgan, volume.shape[:4]))
    channels = {"mean": jnp.zeros(z.shape[-1]), "std": jnp.ones(z.shape[-1])}
    return {
        name: init_variables(vqgan, key, volume) | {"statistics": channels}
        for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan")
        if (vqgan := getattr(dvg, name))
    } | {
        "new_view": init_variables(dvg.generator, key, z, t),
        "diffusion": init_variables(dvg.denoiser, key, (z, z), z, t),
    }


def reconstructor_of(variables: dict[str, Any]) -> Reconstructor:
    """Build the tiny model anew: every object is another one, and equal to those of the call before."""
    config = get_config()
    return Reconstructor(config, build_dvg(config), variables)
