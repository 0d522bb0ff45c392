"""Define denoising diffusion in latent space: pure functions of a key."""

from dvg_jax.diffusion.samplers import Sampler, add_noise, sample
from dvg_jax.diffusion.schedule import Schedule

__all__ = ["Sampler", "Schedule", "add_noise", "sample"]
