"""Register every method by name: DVG-Diffusion and its parts, the comparison methods, and two yardsticks.

``evaluate.py`` measures those that are trained in a folder; ``experiments/`` trains and measures those of the paper's
tables, by the same names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from ml_collections import ConfigDict

from dvg_jax.baselines import Baseline, build_baseline
from dvg_jax.config import BASELINES
from dvg_jax.config.build import build_source, required_stages
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.shapes import Key, NewViews, VariablesByStage, Views, Volumes
from dvg_jax.xray.views import minmax

MEAN, CEILING = "mean training volume", "CT VQGAN of the truth"
"""Titles of the yardsticks: the first needs no X-ray, and no method that decodes with that VQGAN exceeds the second
by much."""

DVG_NET, DVG_FULL = "DVG-Net", "DVG-Diffusion"


class Prediction(NamedTuple):
    """Hold the prediction of a method for a batch.

    Attributes:
      ct: CTs (B, D, H, W, 1) in [0, 1]; None for a view synthesiser.
      views: X-rays (B, V_new, h, w, 1) at ``dvg.new_angles``; None unless the method is measured by them.
    """

    ct: Volumes | None
    views: NewViews | None = None


@dataclass(frozen=True)
class Method:
    """Describe a way from X-rays to a CT or to new views.

    Attributes:
      title: in tables.
      requires: stages whose variables ``predict`` reads, in the order of training.
      predict: (variables by stage, views (B, V, h, w, 1) in [0, 1] at ``dvg.angles``, key) -> prediction. A method that
        draws nothing ignores the key.
      sees_truth: ``predict`` gets the true CTs (B, D, H, W, 1) instead of views: an upper bound, no reconstruction.
    """

    title: str
    requires: tuple[str, ...]
    predict: Callable[[VariablesByStage, Views | Volumes, Key], Prediction]
    sees_truth: bool = False


def build_method(name: str, config: ConfigDict, dvg: DVG) -> Method:
    """Build the method of that name, with the geometry and views of ``dvg``.

    Args:
      name: a key of ``METHODS``.

    Raises:
      UserError: the method cannot use these views or this size.
    """
    return METHODS[name](config, dvg)


def own_methods(config: ConfigDict) -> tuple[str, ...]:
    """Name what ``evaluate.py`` measures of the pipeline itself: the switched-on parts and their ceiling."""
    net = ("dvg_net",) if "new_view" in required_stages(config) else ()
    return ("vqgan_ceiling", *net, *(("dvg_diffusion",) if config.use_diffusion else ()))


def _mean_volume(config: ConfigDict, dvg: DVG) -> Method:
    mean = mean_volume(build_source(config, "train"))
    return Method(MEAN, (), lambda variables, views, key: Prediction(jnp.broadcast_to(mean, (len(views), *mean.shape))))


def mean_volume(source: Source) -> Float[Array, "D H W 1"]:
    """Compute the mean of all CTs of a source, (D, H, W, 1); of an endless one, of its first 1024."""
    total, count = 0.0, 0
    for batch in evaluation_batches(source, 16):
        ct = np.asarray(batch["ct"])[batch["mask"] > 0]
        total, count = total + ct.sum(axis=0, dtype=np.float64), count + len(ct)
    return jnp.asarray(total / count, jnp.float32)


def _ceiling(config: ConfigDict, dvg: DVG) -> Method:
    def predict(variables: VariablesByStage, truth: Volumes, key: Key) -> Prediction:
        return Prediction(dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, truth))))

    return Method(CEILING, ("ct_vqgan",), predict, sees_truth=True)


def _dvg_net(config: ConfigDict, dvg: DVG) -> Method:
    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        net = dvg.synthesize_view(variables, dvg.view_latent(variables, views, dvg.angles))
        return Prediction(dvg.finish(net.ct), minmax(net.views[..., 0])[..., None] if dvg.new_angles else None)

    return Method(DVG_NET, ("ct_vqgan", "view_vqgan", "new_view"), predict)


def _dvg_diffusion(config: ConfigDict, dvg: DVG) -> Method:
    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        return Prediction(dvg.reconstruct(variables, views, dvg.angles, key))

    return Method(DVG_FULL, required_stages(config), predict)


def _baseline(name: str, config: ConfigDict, dvg: DVG) -> Method:
    return baseline_method(build_baseline(name, config, dvg), dvg)


def baseline_method(baseline: Baseline, dvg: DVG) -> Method:
    """Turn a comparison method into one that is measured as all others are."""

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        result = baseline.predict(variables, views, key)
        if baseline.makes_views:
            return Prediction(None, result)
        return Prediction(result, dvg.render(result, dvg.new_angles) if projected else None)

    projected = baseline.in_view_table and dvg.new_angles
    return Method(baseline.title, (*baseline.requires, baseline.name), predict)


METHODS: dict[str, Callable[[ConfigDict, DVG], Method]] = {
    "mean_volume": _mean_volume,
    **{name: partial(_baseline, name) for name in BASELINES},
    "vqgan_ceiling": _ceiling,
    "dvg_net": _dvg_net,
    "dvg_diffusion": _dvg_diffusion,
    # The paper's names of switches: no new view, and the new view without its encoder.
    "vpge_diffusion": _dvg_diffusion,
    "newview_diffusion": partial(_baseline, "cddpm"),
}
