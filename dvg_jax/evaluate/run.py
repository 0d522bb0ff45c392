"""Measure a trained folder on unseen cases, compared with yardsticks."""

import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.config import BASELINES
from dvg_jax.config.build import build_dvg, build_source, required_stages
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.evaluate import files
from dvg_jax.evaluate.cases import build_procedure
from dvg_jax.evaluate.measure import Measured, measure
from dvg_jax.evaluate.page import EvaluationPage
from dvg_jax.evaluate.scores import Scores
from dvg_jax.files.atomic import removal_notes, together
from dvg_jax.methods import CEILING, MEAN, build_method, own_methods
from dvg_jax.training.workdir import finished_steps, load_stages
from dvg_jax.viz import comparison_panel, view_strip


def evaluate(config: ConfigDict, workdir: Path, show_progress: bool = True, report: Path | None = None) -> str:
    """Measure the model in ``workdir``, and the comparison methods trained in it, on ``config.data``'s test cases.

    Writes ``evaluation/volumes.csv``, ``reprojections.csv`` and ``views.csv`` with a row a case, the same as JSON with
    means and intervals, and pictures of the first cases. All of them are written or, on a failure, none. Files of an
    earlier evaluation that this one does not write are removed.

    Args:
      config: what the folder was trained with; ``config.data`` and ``config.evaluate`` are free.
      workdir: a folder that ``train.py`` has written.
      show_progress: draw a bar on stderr.
      report: path of a page with the pictured cases and the tables; no page unless given.

    Returns:
      The tables of means, to be printed.

    Raises:
      UserError: a model that is absent, or files that cannot be written, before anything is measured.
    """
    with together(files.check(config, workdir, report)) as removed:
        tables = _evaluate(config, workdir, show_progress, report)
    for line in removal_notes(removed):
        print(line, file=sys.stderr)
    return tables


def _evaluate(config: ConfigDict, workdir: Path, show_progress: bool, report: Path | None) -> str:
    if report is not None and config.evaluate.pictures < 1:
        raise UserError(f"config.evaluate.pictures is {config.evaluate.pictures}; allowed with a page: 1 or more")
    dvg, procedure = build_dvg(config), build_procedure(config)
    methods = [build_method(name, config, dvg) for name in trained_methods(config, workdir)]
    names = dict.fromkeys(name for method in methods for name in method.requires)
    variables = jax.device_put(load_stages(config, workdir, tuple(names), wanted_by="evaluation"))
    methods.insert(0, build_method("mean_volume", config, dvg))  # only now: it reads all training CTs
    test = build_source(config, "test")
    folder, scores, page = workdir / files.FOLDER, Scores(dvg, procedure.measures), EvaluationPage(dvg, variables)
    count = min(procedure.cases, len(test))
    with tqdm(total=count, desc=f"{'evaluation':>15}", disable=not show_progress, dynamic_ncols=True) as bar:
        for batch in measure(methods, variables, dvg, test, procedure):
            scores.add(batch)
            for i, case in enumerate(batch.cases.numbers):
                if case < procedure.pictures:
                    _write_pictures(dvg, batch, i, files.pictures_of(folder, case))
                    if report is not None:
                        page.add(batch, i, {method: rows[case] for method, rows in scores.volumes.items()})
                bar.update()
    title = f"{count} unseen cases of {config.data.source} at {config.size}^3, {config.geometry} geometry"
    if report is not None:
        page.write(report, title, config, workdir, scores)
    return scores.write(folder, title)


def trained_methods(config: ConfigDict, workdir: Path) -> list[str]:
    """Name the methods to be measured in a folder, in the order of the tables.

    Comparison methods may be measured alone. Where a part of the pipeline is there, the whole of it is named, so that
    loading it says which stage is missing.
    """
    trained = [name for name in BASELINES if finished_steps(config, workdir, name)]
    if trained and not any(finished_steps(config, workdir, stage) for stage in required_stages(config)):
        return trained
    return [*trained, *own_methods(config)]


def _write_pictures(dvg: DVG, batch: Measured, i: int, paths: tuple[Path, Path]) -> None:
    """Write case ``i`` of a batch as a panel of slices and a strip of views."""
    panel, strip = paths
    truth = batch.cases.truth
    results = {title: found.ct for title, found in batch.predictions.items() if title not in (MEAN, CEILING)}
    columns = {title: np.asarray(ct[i, ..., 0]) for title, ct in results.items() if ct is not None}
    comparison_panel(np.asarray(truth[i, ..., 0]), columns, panel)
    strip_views = {f"{a:g} deg": v for a, v in zip(dvg.angles, dvg.render(truth, dvg.angles)[i], strict=True)}
    made = batch.new_views
    if made is not None:
        for v, angle in enumerate(dvg.new_angles):
            strip_views[f"{angle:g} deg, true"] = batch.true_views[i, v]
            strip_views[f"{angle:g} deg, made"] = made[i, v]
    view_strip({name: np.asarray(view[..., 0]) for name, view in strip_views.items()}, strip)
