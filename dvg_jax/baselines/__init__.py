"""Define the paper's comparison methods: one file each, trained and evaluated as DVG-Diffusion is.

The variants Base-, NewView- and VPGE-Diffusion and DVG-Net are switches of the pipeline itself: ``use_vpge``,
``new_angles``, ``use_diffusion``.
"""

from ml_collections import ConfigDict

from dvg_jax.baselines import bx2s, cddpm, cnn2d, prior_net, reconnet, residual_unet, unrolled, x2ct
from dvg_jax.baselines.base import Baseline, as_stage
from dvg_jax.dvg import DVG
from dvg_jax.shapes import NewViews, Views, Volumes
from dvg_jax.stages.base import Stage

_BUILDERS = {
    "cnn2d": cnn2d.build,
    "x2ct_cnn": x2ct.build_cnn,
    "x2ct_gan": x2ct.build_gan,
    "prior_net": prior_net.build,
    "residual_unet": residual_unet.build,
    "bx2s": bx2s.build,
    "reconnet": reconnet.build,
    "cddpm": cddpm.build,
    "unrolled": unrolled.build,
}

__all__ = ["Baseline", "baseline_stage", "build_baseline"]


def build_baseline(name: str, config: ConfigDict, dvg: DVG) -> Baseline:
    """Build a comparison method by name.

    Args:
      name: one of ``config.BASELINES``.
      config: gives the method's settings.
      dvg: gives geometry and views.

    Raises:
      UserError: the method cannot use these views, this size or these settings.
    """
    return _BUILDERS[name](config, dvg)


def baseline_stage(name: str, config: ConfigDict, dvg: DVG) -> Stage:
    """Build a comparison method as a stage of the training loop.

    Args:
      name: one of ``config.BASELINES``.
      config: gives the method's settings.
      dvg: gives geometry and views.

    Raises:
      UserError: as in :func:`build_baseline`.
    """
    baseline = build_baseline(name, config, dvg)

    def render(ct: Volumes) -> tuple[Views, Volumes | NewViews]:
        return dvg.render(ct, dvg.angles), dvg.render(ct, dvg.new_angles) if baseline.makes_views else ct

    return as_stage(baseline, render)
