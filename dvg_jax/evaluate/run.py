"""How good a trained folder is, on cases it has not seen, next to yardsticks."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.baselines import Baseline, build_baseline
from dvg_jax.config import BASELINES
from dvg_jax.config.build import build_dvg, build_source, required_stages
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.evaluate import files as evaluation_files
from dvg_jax.evaluate.page import EvaluationPage
from dvg_jax.evaluate.scores import CEILING, MEAN, Scores, build_measures, row_labels
from dvg_jax.files.atomic import said, together
from dvg_jax.shapes import Key, Variables, Views, Volumes
from dvg_jax.training import sharding
from dvg_jax.training.workdir import finished_steps, load_stages
from dvg_jax.viz import comparison_panel, view_strip
from dvg_jax.xray.views import minmax

DVG_NET, DVG_FULL = "DVG-Net", "DVG-Diffusion"


def evaluate(config: ConfigDict, workdir: Path, show_progress: bool = True, report: Path | None = None) -> str:
    """Measure the model in ``workdir``, and the comparison methods trained in it, on ``config.data``'s test cases.

    Writes ``evaluation/volumes.csv``, ``reprojections.csv`` and ``views.csv`` with a row a case, the same as JSON with
    means and intervals, and pictures of the first cases. ``report`` is the path of a page with those cases and the
    tables. All of them are written or, on a failure, none. Files of an earlier evaluation that this one does not write
    are removed.

    Returns:
      The tables of means, to be printed.

    Raises:
      UserError: a model that is absent, or files that cannot be written, before anything is measured.
    """
    with together(evaluation_files.check(config, workdir, report)) as removed:
        tables = _evaluate(config, workdir, show_progress, report)
    for line in said(removed):
        print(line, file=sys.stderr)
    return tables


def _evaluate(config: ConfigDict, workdir: Path, show_progress: bool, report: Path | None) -> str:
    if report is not None and config.evaluate.pictures < 1:
        raise UserError(f"config.evaluate.pictures is {config.evaluate.pictures}; allowed with a page: 1 or more")
    dvg = build_dvg(config)
    baselines = trained_baselines(config, workdir, dvg)
    needed = required_stages(config)
    # Baselines may be measured on their own; a pipeline that is there in part is an error that names what is missing.
    own = needed if not baselines or any(finished_steps(config, workdir, name) for name in needed) else ()
    names = dict.fromkeys([*own, *(name for b in baselines for name in (*b.requires, b.name))])
    variables = jax.device_put(load_stages(config, workdir, tuple(names), wanted_by="evaluation"))
    # Where batches divide by the devices, each device predicts its share; figures are taken on one.
    mesh = sharding.even_mesh(config.evaluate.batch_size)
    everywhere = variables if mesh is None else jax.device_put(variables, sharding.replicated(mesh))
    folder = workdir / evaluation_files.FOLDER
    key = jax.random.key(config.seed)
    mean = mean_volume(build_source(config, "train"))
    test = build_source(config, "test")
    scores = Scores(dvg, build_measures(config))
    page = EvaluationPage(dvg, variables)
    count = min(config.evaluate.cases, len(test))
    bar = tqdm(total=count, desc=f"{'evaluation':>15}", disable=not show_progress, dynamic_ncols=True)
    for cases, truth in case_batches(test, config.evaluate.batch_size, count):
        # The key belongs to the batch's first case: a result depends on the batch size, which the config fixes.
        case_key = jax.random.fold_in(key, cases[0])
        split = truth if mesh is None else jax.device_put(truth, sharding.rows_split(mesh))
        results, made = predict(dvg, everywhere, split, case_key) if own else ({}, None)
        others, synthesised = predict_baselines(dvg, baselines, everywhere, split, case_key)
        if mesh is not None:
            results, made, others, synthesised = jax.device_put(
                (results, made, others, synthesised), jax.local_devices()[0]
            )
        results = {MEAN: jnp.broadcast_to(mean, truth.shape), **others, **results}
        if made is not None:
            synthesised[DVG_NET] = made
        labels = [row_labels(test, case, truth[i, ..., 0]) for i, case in enumerate(cases)]
        scores.add(labels, truth, results, synthesised)
        for i, case in enumerate(cases):
            if case < config.evaluate.pictures:
                _pictures(dvg, truth, results, made, i, evaluation_files.pictures_of(folder, case))
                if report is not None:
                    page.add(truth, results, made, i, {method: rows[case] for method, rows in scores.volumes.items()})
            bar.update()
    bar.close()
    title = f"{count} unseen cases of {config.data.source} at {config.size}^3, {config.geometry} geometry"
    if report is not None:
        page.write(report, title, config, workdir, scores)
    return scores.write(folder, title)


def predict(
    dvg: DVG, variables: dict[str, Variables], truth: Volumes, key: Key
) -> tuple[dict[str, Volumes], Views | None]:
    """Results by method for CTs known only by their X-rays, and the synthesised views, if any are made."""
    shown = dvg.render(truth, dvg.angles)
    results = {CEILING: dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, truth)))}
    made = None
    if "new_view" in variables:
        net = dvg.synthesize_view(variables, dvg.view_latent(variables, shown, dvg.angles))
        results[DVG_NET] = dvg.finish(net.ct)
        made = minmax(net.views[..., 0])[..., None] if dvg.new_angles else None
    if dvg.use_diffusion:
        results[DVG_FULL] = dvg.reconstruct(variables, shown, dvg.angles, key)
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


def case_batches(source: Source, batch_size: int, wanted: int) -> Iterator[tuple[list[int], Volumes]]:
    """Numbers and CTs of the first ``wanted`` cases; the last batch is as long as the others, its numbers are not."""
    first = 0
    for batch in evaluation_batches(source, batch_size):
        count = min(int(batch["mask"].sum()), wanted - first)
        if count <= 0:
            return
        yield list(range(first, first + count)), jnp.asarray(batch["ct"])
        first += count


def _pictures(
    dvg: DVG, truth: Volumes, results: dict[str, Volumes], made: Views | None, i: int, files: tuple[Path, Path]
) -> None:
    """Write case ``i`` of a batch as a panel of slices and a strip of views."""
    panel, views = files
    columns = {name: np.asarray(x[i, ..., 0]) for name, x in results.items() if name not in (MEAN, CEILING)}
    comparison_panel(np.asarray(truth[i, ..., 0]), columns, panel)
    shown = {f"{a:g} deg": v for a, v in zip(dvg.angles, dvg.render(truth, dvg.angles)[i], strict=True)}
    if made is not None:
        for v, angle in enumerate(dvg.new_angles):
            shown[f"{angle:g} deg, true"] = dvg.render(truth, dvg.new_angles)[i, v]
            shown[f"{angle:g} deg, made"] = made[i, v]
    strip = {name: np.asarray(view[..., 0]) for name, view in shown.items()}
    view_strip(strip, views)
