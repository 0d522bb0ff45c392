"""The paper's comparison methods: one file each, trained by the loop and measured by the evaluation of DVG-Diffusion.

The variants Base-, NewView- and VPGE-Diffusion and DVG-Net are switches of the pipeline itself: ``use_vpge``,
``new_angles``, ``use_diffusion``.
"""

from ml_collections import ConfigDict

from dvg_jax.baselines import bx2s, cddpm, cnn2d, prior_net, reconnet, residual_unet, x2ct
from dvg_jax.baselines.base import Baseline, as_stage
from dvg_jax.dvg import DVG
from dvg_jax.shapes import Views, Volumes
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
}

__all__ = ["Baseline", "baseline_stage", "build_baseline"]


def build_baseline(name: str, config: ConfigDict, dvg: DVG) -> Baseline:
    """The method of that name, with the geometry and views of ``dvg``. Raises UserError if it has no such views."""
    return _BUILDERS[name](config, dvg)


def baseline_stage(name: str, config: ConfigDict, dvg: DVG) -> Stage:
    """The method of that name as a stage of the training loop."""
    baseline = build_baseline(name, config, dvg)

    def render(ct: Volumes) -> tuple[Views, Volumes | Views]:
        return dvg.render(ct, dvg.angles), dvg.render(ct, dvg.new_angles) if baseline.makes_views else ct

    return as_stage(baseline, render)
