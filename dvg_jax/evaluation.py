"""How good a trained folder is, on cases it has not seen, next to yardsticks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.build import build_dvg, build_source, required_stages
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.metrics import view_metrics, volume_metrics
from dvg_jax.metrics.report import write_table
from dvg_jax.networks.lpips import load_lpips, lpips
from dvg_jax.shapes import Key, Variables, Views, Volumes
from dvg_jax.training.run import load_stages
from dvg_jax.viz import comparison_panel, view_strip

MEAN, CEILING, DVG_NET, DVG_FULL = "mean training volume", "CT VQGAN of the truth", "DVG-Net", "DVG-Diffusion"


def evaluate(config: ConfigDict, workdir: Path, show_progress: bool = True) -> str:
    """Measure the model in ``workdir`` on the test cases of ``config.data``.

    Writes ``evaluation/volumes.csv`` and ``views.csv`` with a row a case, the same as JSON with means and intervals,
    and pictures of the first cases.

    Returns:
      The table of means, to be printed.
    """
    dvg = build_dvg(config)
    variables = jax.device_put(load_stages(config, workdir, required_stages(config), wanted_by="evaluation"))
    folder = workdir / "evaluation"
    distance = _lpips() if config.evaluate.lpips else None
    key = jax.random.key(config.seed)
    mean = mean_volume(build_source(config, "train"))
    volumes: dict[str, list[dict]] = {}
    views: dict[str, list[dict]] = {}
    bar = tqdm(total=config.evaluate.cases, desc=f"{'evaluation':>15}", disable=not show_progress, dynamic_ncols=True)
    for case, truth in _cases(config):
        results, new = predict(dvg, variables, truth, jax.random.fold_in(key, case))
        results = {MEAN: mean, **results}
        for method, result in results.items():
            row = volume_metrics(truth[0, ..., 0], result, distance)
            volumes.setdefault(method, []).append({"case": case, **row})
        for i, angle in enumerate(dvg.new_angles):
            true = dvg.render(truth, dvg.new_angles)[0, i, ..., 0]
            row = view_metrics(true, new[0, i, ..., 0], distance)
            views.setdefault(f"DVG-Net, view at {angle:g} degrees", []).append({"case": case, **row})
        if case < config.evaluate.pictures:
            _pictures(dvg, truth, results, new, folder / "pictures" / f"case_{case:04d}")
        bar.update()
    bar.close()
    title = f"{len(volumes[MEAN])} unseen cases of {config.data.source} at {config.size}^3, {config.geometry} geometry"
    table = write_table(volumes, folder / "volumes", f"CT: {title}")
    if views:
        table += "\n\n" + write_table(views, folder / "views", f"Synthesised X-ray: {title}")
    return table


def predict(
    dvg: DVG, variables: dict[str, Variables], truth: Volumes, key: Key
) -> tuple[dict[str, jax.Array], Views | None]:
    """Results by method for the first CT of ``truth`` (1, D, H, W, 1), each (D, H, W), and the synthesised views."""
    shown = dvg.render(truth, dvg.angles)
    results = {CEILING: _round_trip(dvg, variables, truth)[0, ..., 0]}
    new = None
    if "new_view" in variables:
        net = replace(dvg, use_diffusion=False)
        first = net.reconstruct(variables, shown, key)
        results[DVG_NET] = first[0, ..., 0]
        new = dvg.render(first, dvg.new_angles) if dvg.new_angles else None
    if dvg.use_diffusion:
        results[DVG_FULL] = dvg.reconstruct(variables, shown, key)[0, ..., 0]
    return results, new


@partial(jax.jit, static_argnums=0)
def _round_trip(dvg: DVG, variables: dict[str, Variables], ct: Volumes) -> Volumes:
    return dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, ct)))


def mean_volume(source: Source) -> jax.Array:
    """The mean of all CTs of a source, (D, H, W): what one knows without an X-ray."""
    total, count = 0.0, 0
    for batch in evaluation_batches(source, 16):
        ct = np.asarray(batch["ct"])[batch["mask"] > 0]
        total, count = total + ct.sum(axis=0, dtype=np.float64), count + len(ct)
    return jnp.asarray(total[..., 0] / count, jnp.float32)


def _cases(config: ConfigDict) -> Iterator[tuple[int, Volumes]]:
    source = build_source(config, "test")
    for case, batch in enumerate(evaluation_batches(source, 1)):
        if case == config.evaluate.cases:
            return
        yield case, jnp.asarray(batch["ct"])


def _lpips() -> Callable:
    params = load_lpips("vgg")
    return jax.jit(lambda a, b: lpips(params, a, b, net="vgg"))


def _pictures(dvg: DVG, truth: Volumes, results: dict, new: Views | None, path: Path) -> None:
    columns = {name: np.asarray(results[name]) for name in (DVG_NET, DVG_FULL) if name in results}
    comparison_panel(np.asarray(truth[0, ..., 0]), columns, path.with_suffix(".png"))
    shown = {f"{a:g} deg": np.asarray(v[..., 0]) for a, v in zip(dvg.angles, dvg.render(truth, dvg.angles)[0], strict=True)}
    if new is not None:
        true = dvg.render(truth, dvg.new_angles)[0]
        for a, t, v in zip(dvg.new_angles, true, new[0], strict=True):
            shown |= {f"{a:g} deg, true": np.asarray(t[..., 0]), f"{a:g} deg, made": np.asarray(v[..., 0])}
    view_strip(shown, path.with_name(path.name + "_views.png"))
