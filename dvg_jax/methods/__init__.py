"""Register every method by name: DVG-Diffusion and its parts, the comparison methods, and yardsticks.

``evaluate.py`` measures those that are trained in a folder; ``experiments/`` trains and measures those of the paper's
tables, by the same names.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ml_collections import ConfigDict

from dvg_jax.baselines import Baseline, build_baseline
from dvg_jax.config import BASELINES
from dvg_jax.config.build import build_source, estimate_stages
from dvg_jax.dvg import DVG
from dvg_jax.methods.base import CODEC, DVG_FULL, DVG_NET, Method, Prediction
from dvg_jax.methods.yardsticks import YARDSTICKS
from dvg_jax.shapes import Key, VariablesByStage, Views, Volumes
from dvg_jax.xray.views import minmax


def build_method(name: str, config: ConfigDict, dvg: DVG) -> Method:
    """Build the method of that name, with the geometry and views of ``dvg``.

    Args:
      name: a key of ``METHODS``.

    Raises:
      UserError: the method cannot use these views or this size.
    """
    return METHODS[name](config, dvg)


def own_methods(config: ConfigDict) -> tuple[str, ...]:
    """Name what ``evaluate.py`` measures of the pipeline itself: the codec, and the switched-on parts."""
    net = ("dvg_net",) if "new_view" in estimate_stages(config) else ()
    return ("ct_codec", *net, *(("dvg_diffusion",) if config.use_diffusion else ()))


def yardsticks(config: ConfigDict, dvg: DVG) -> list[Method]:
    """Build all yardsticks from the training CTs that ``config.data`` names."""
    source = build_source(config, "train")
    return [make(source, dvg) for make in YARDSTICKS.values()]


def with_refiner(method: Method) -> Method:
    """Measure a method's CTs after the trained refiner too."""
    return replace(method, requires=(*method.requires, "refine"), agrees=(*method.agrees, "refine"))


def _yardstick(title: str, config: ConfigDict, dvg: DVG) -> Method:
    return YARDSTICKS[title](build_source(config, "train"), dvg)


def _codec(config: ConfigDict, dvg: DVG) -> Method:
    def predict(variables: VariablesByStage, truth: Volumes, key: Key) -> Prediction:
        return Prediction(dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, truth))))

    return Method(CODEC, ("ct_vqgan",), predict, sees_truth=True)


def _dvg_net(config: ConfigDict, dvg: DVG) -> Method:
    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        net = dvg.synthesize_view(variables, dvg.view_latent(variables, views, dvg.angles))
        return Prediction(dvg.finish(net.ct), minmax(net.views[..., 0])[..., None] if dvg.new_angles else None)

    return Method(DVG_NET, ("ct_vqgan", "view_vqgan", "new_view"), predict, agrees=("films",))


def _dvg_diffusion(config: ConfigDict, dvg: DVG) -> Method:
    def predict(variables: VariablesByStage, views: Views, key: Key) -> Prediction:
        made = dvg.estimates(variables, views, dvg.angles, key)
        return Prediction(made.ct, first=made.first)

    return Method(DVG_FULL, estimate_stages(config), predict, agrees=("films",))


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
    agrees = () if baseline.makes_views else ("films",)
    return Method(baseline.title, (*baseline.requires, baseline.name), predict, agrees=agrees)


METHODS: dict[str, Callable[[ConfigDict, DVG], Method]] = {
    **{title: partial(_yardstick, title) for title in YARDSTICKS},
    **{name: partial(_baseline, name) for name in BASELINES},
    "ct_codec": _codec,
    "dvg_net": _dvg_net,
    "dvg_diffusion": _dvg_diffusion,
    # The paper's names of switches: no new view, and the new view without its encoder.
    "vpge_diffusion": _dvg_diffusion,
    "newview_diffusion": partial(_baseline, "cddpm"),
}
