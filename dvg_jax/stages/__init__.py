"""Define the stages of training; ``config.stage`` chooses."""

from ml_collections import ConfigDict

from dvg_jax.dvg import DVG
from dvg_jax.stages import latent, refine, vqgan
from dvg_jax.stages.base import Stage

_BUILDERS = {
    "ct_vqgan": vqgan.ct_stage,
    "view_vqgan": vqgan.view_stage,
    "new_view_vqgan": vqgan.new_view_stage,
    "new_view": latent.new_view_stage,
    "diffusion": latent.diffusion_stage,
    "refine": refine.refine_stage,
}


def build_stage(name: str, config: ConfigDict, dvg: DVG) -> Stage:
    """Build a stage by name.

    Args:
      name: one of ``config.STAGES``.
      config: gives the stage's settings.
      dvg: the method that the stage belongs to.
    """
    return _BUILDERS[name](config, dvg)
