"""How good a trained folder is, on cases it has not seen, next to yardsticks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

import dvg_jax
from dvg_jax.baselines import Baseline, build_baseline
from dvg_jax.build import build_dvg, build_source, required_stages
from dvg_jax.config import BASELINES
from dvg_jax.data.frame import FIELD_MM, frame_affine
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG, minmax
from dvg_jax.errors import UserError
from dvg_jax.metrics import view_metrics, volume_metrics
from dvg_jax.metrics.report import write_table
from dvg_jax.networks.lpips import Net, load_lpips, lpips
from dvg_jax.reconstructor import fingerprint
from dvg_jax.report import Case, Page, write_page
from dvg_jax.report.cases import build_case, build_films, means_table
from dvg_jax.shapes import Key, Variables, Views, Volumes
from dvg_jax.training.run import finished_steps, load_stages
from dvg_jax.viz import comparison_panel, view_strip

MEAN, CEILING, DVG_NET, DVG_FULL = "mean training volume", "CT VQGAN of the truth", "DVG-Net", "DVG-Diffusion"


def evaluate(config: ConfigDict, workdir: Path, show_progress: bool = True, report: Path | None = None) -> str:
    """Measure the model in ``workdir``, and the comparison methods trained beside it, on ``config.data``'s test cases.

    Writes ``evaluation/volumes.csv`` and ``views.csv`` with a row a case, the same as JSON with means and intervals,
    and pictures of the first cases; ``report`` takes a page with those cases and the tables.

    Returns:
      The table of means, to be printed.
    """
    if report is not None and config.evaluate.pictures < 1:
        raise UserError(f"config.evaluate.pictures is {config.evaluate.pictures}; allowed with a page: 1 or more")
    dvg = build_dvg(config)
    baselines = trained_baselines(config, workdir, dvg)
    needed = required_stages(config)
    # Baselines may be measured on their own; a pipeline that is there in part is an error that names what is missing.
    own = needed if not baselines or any(finished_steps(config, workdir, name) for name in needed) else ()
    names = dict.fromkeys([*own, *(name for b in baselines for name in (*b.requires, b.name))])
    variables = jax.device_put(load_stages(config, workdir, tuple(names), wanted_by="evaluation"))
    folder = workdir / "evaluation"
    distance = _lpips(config.evaluate.lpips) if config.evaluate.lpips else None
    key = jax.random.key(config.seed)
    mean = mean_volume(build_source(config, "train"))
    volumes: dict[str, list[dict]] = {}
    views: dict[str, list[dict]] = {}
    shown: list[Case] = []
    count = min(config.evaluate.cases, len(build_source(config, "test")))
    bar = tqdm(total=count, desc=f"{'evaluation':>15}", disable=not show_progress, dynamic_ncols=True)
    for cases, truth in _batches(config):
        # The key belongs to the batch's first case: a result depends on the batch size, which the config fixes.
        case_key = jax.random.fold_in(key, cases[0])
        results, made = predict(dvg, variables, truth, case_key) if own else ({}, None)
        others, synthesised = predict_baselines(dvg, baselines, variables, truth, case_key)
        results = {MEAN: jnp.broadcast_to(mean, truth.shape), **others, **results}
        if made is not None:
            synthesised[DVG_NET] = made
        true = dvg.render(truth, dvg.new_angles) if synthesised else None
        pairs = {
            f"{method}, view at {a:g} degrees": (true[:, v], made_views[:, v])  # type: ignore[index]
            for v, a in enumerate(dvg.new_angles)
            for method, made_views in synthesised.items()
        }
        for i, case in enumerate(cases):
            for method, result in results.items():
                row = volume_metrics(truth[i, ..., 0], result[i, ..., 0], distance)
                volumes.setdefault(method, []).append({"case": case, **row})
            for method, (expected, view) in pairs.items():
                row = view_metrics(expected[i, ..., 0], view[i, ..., 0], distance)
                views.setdefault(method, []).append({"case": case, **row})
            if case < config.evaluate.pictures:
                _pictures(dvg, truth, results, made, i, folder / "pictures" / f"case_{case:04d}")
                if report is not None:
                    figures = {method: rows[-1] for method, rows in volumes.items()}
                    shown.append(_case(dvg, case, truth, results, made, i, figures))
            bar.update()
    bar.close()
    title = f"{count} unseen cases of {config.data.source} at {config.size}^3, {config.geometry} geometry"
    title += f", LPIPS by {config.evaluate.lpips}" if distance else ""
    table = write_table(volumes, folder / "volumes", f"CT: {title}")
    if views:
        table += "\n\n" + write_table(views, folder / "views", f"Synthesised X-ray: {title}")
    if report is not None:
        settings = _settings(config, workdir) | {"model_fingerprint": fingerprint(variables)}
        tables = [means_table(name, rows) for name, rows in (("CT", volumes), ("Synthesised X-ray", views)) if rows]
        write_page(report, Page(title, tuple(shown), settings, (), tuple(tables)))
    return table


def predict(
    dvg: DVG, variables: dict[str, Variables], truth: Volumes, key: Key
) -> tuple[dict[str, Volumes], Views | None]:
    """Results by method for CTs known only by their X-rays, and the synthesised views, if any are made."""
    shown = dvg.render(truth, dvg.angles)
    results = {CEILING: dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, truth)))}
    made = None
    if "new_view" in variables:
        net = dvg.synthesize_view(variables, dvg.view_latent(variables, shown))
        results[DVG_NET] = dvg.finish(net.ct)
        made = minmax(net.views[..., 0])[..., None] if dvg.new_angles else None
    if dvg.use_diffusion:
        results[DVG_FULL] = dvg.reconstruct(variables, shown, key)
    return results, made


def trained_baselines(config: ConfigDict, workdir: Path, dvg: DVG) -> list[Baseline]:
    """The comparison methods that have been trained in ``workdir``, in the config's order."""
    return [build_baseline(name, config, dvg) for name in BASELINES if finished_steps(config, workdir, name)]


def predict_baselines(
    dvg: DVG, baselines: list[Baseline], variables: dict[str, Variables], truth: Volumes, key: Key
) -> tuple[dict[str, Volumes], dict[str, Views]]:
    """CTs and synthesised views by method, from the same X-rays that DVG-Diffusion is shown."""
    shown = dvg.render(truth, dvg.angles)
    results, made = {}, {}
    for baseline in baselines:
        result = baseline.predict(variables, shown, key)
        if baseline.makes_views:
            made[baseline.title] = result
            continue
        results[baseline.title] = result
        if baseline.in_view_table and dvg.new_angles:
            made[baseline.title] = dvg.render(result, dvg.new_angles)
    return results, made


def mean_volume(source: Source) -> jax.Array:
    """The mean of all CTs of a source, (D, H, W, 1): what one knows without an X-ray."""
    total, count = 0.0, 0
    for batch in evaluation_batches(source, 16):
        ct = np.asarray(batch["ct"])[batch["mask"] > 0]
        total, count = total + ct.sum(axis=0, dtype=np.float64), count + len(ct)
    return jnp.asarray(total / count, jnp.float32)


def _batches(config: ConfigDict) -> Iterator[tuple[list[int], Volumes]]:
    """Case numbers and CTs; the last batch is as long as the others, its numbers are not."""
    source, wanted = build_source(config, "test"), config.evaluate.cases
    first = 0
    for batch in evaluation_batches(source, config.evaluate.batch_size):
        count = min(int(batch["mask"].sum()), wanted - first)
        if count <= 0:
            return
        yield list(range(first, first + count)), jnp.asarray(batch["ct"])
        first += count


def _lpips(net: Net) -> Callable:
    params = load_lpips(net)
    return jax.jit(lambda a, b: lpips(params, a, b, net))


def _settings(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """What the page says of the run; all else is in the folder's ``config.json``."""
    chosen = ("seed", "size", "geometry", "angles", "new_angles", "projector", "use_vpge", "use_diffusion")
    facts = {"model": str(workdir), "version": dvg_jax.__version__, "source": config.data.source}
    return facts | {name: config[name] for name in chosen} | {"evaluate": config.evaluate.to_dict()}


def _case(
    dvg: DVG,
    case: int,
    truth: Volumes,
    results: dict[str, Volumes],
    made: Views | None,
    i: int,
    figures: dict[str, dict[str, float]],
) -> Case:
    """Case ``i`` of a batch as the page shows it, the last method first: it is DVG-Diffusion where that is trained."""
    volumes = {name: np.asarray(x[i, ..., 0]) for name, x in reversed(results.items()) if name != MEAN}
    views = dvg.render(truth[i : i + 1], dvg.angles)
    titles = [f"{angle:g} degrees" for angle in dvg.angles]
    films = build_films(dvg, titles, views, next(iter(volumes.values())))
    rows = {method: {n: v for n, v in row.items() if n != "case"} for method, row in figures.items()}
    affine = frame_affine(truth.shape[1:4], FIELD_MM / truth.shape[1])
    new = None if made is None else made[i : i + 1]
    return build_case(f"case {case}", dvg, films, volumes, affine, np.asarray(truth[i, ..., 0]), new, metrics=rows)


def _pictures(dvg: DVG, truth: Volumes, results: dict[str, Volumes], made: Views | None, i: int, path: Path) -> None:
    """Panels of case ``i`` of a batch."""
    columns = {name: np.asarray(x[i, ..., 0]) for name, x in results.items() if name not in (MEAN, CEILING)}
    comparison_panel(np.asarray(truth[i, ..., 0]), columns, path.with_suffix(".png"))
    shown = {f"{a:g} deg": v for a, v in zip(dvg.angles, dvg.render(truth, dvg.angles)[i], strict=True)}
    if made is not None:
        for v, angle in enumerate(dvg.new_angles):
            shown[f"{angle:g} deg, true"] = dvg.render(truth, dvg.new_angles)[i, v]
            shown[f"{angle:g} deg, made"] = made[i, v]
    strip = {name: np.asarray(view[..., 0]) for name, view in shown.items()}
    view_strip(strip, path.with_name(path.name + "_views.png"))
