"""Measure a trained folder on unseen cases, compared with yardsticks."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.alignment import align
from dvg_jax.calibration import Calibration, usable
from dvg_jax.config import BASELINES, check
from dvg_jax.config.build import build_also, build_dvg, build_source, estimate_stages, required_stages
from dvg_jax.data.sources import Source
from dvg_jax.devices import full_precision
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError, say
from dvg_jax.evaluate import files
from dvg_jax.evaluate.cases import Procedure, build_procedure
from dvg_jax.evaluate.measure import Measured, measure
from dvg_jax.evaluate.page import EvaluationPage
from dvg_jax.evaluate.scores import Scores
from dvg_jax.evaluate.stress import stress, trials_of
from dvg_jax.files.atomic import removal_notes, together
from dvg_jax.methods import build_method, own_methods, with_refiner, yardsticks
from dvg_jax.methods.base import CODEC, DVG_FULL, DVG_NET, MEAN, Method, agreeing
from dvg_jax.metrics.tables import write_table
from dvg_jax.shapes import Key, VariablesByStage, Views
from dvg_jax.training.calibrate import load_calibration
from dvg_jax.training.workdir import finished_steps, has_refiner, load_stages
from dvg_jax.viz import comparison_panel, view_strip
from dvg_jax.xray.views import table_of


def evaluate(config: ConfigDict, workdir: Path, show_progress: bool = True, report: Path | None = None) -> str:
    """Measure the model in ``workdir``, and the comparison methods trained in it, on ``config.data``'s test cases.

    Writes ``evaluation/volumes.csv``, ``reprojections.csv`` and ``views.csv`` with a row a case, the same as JSON with
    means and intervals, and pictures of the first cases; of a calibrated model also ``coverage.csv``, about its error
    map. The test cases of ``config.evaluate.also`` have tables in a folder of that name. All of them are written or, on
    a failure, none. Files of an earlier evaluation that this one does not write are removed. Float32 is not rounded to
    TF32 on a GPU.

    Args:
      config: what the folder was trained with; ``config.data`` and ``config.evaluate`` are free.
      workdir: a folder that ``train.py`` has written.
      show_progress: draw a bar on stderr.
      report: path of a page with the pictured cases and the tables; no page unless given.

    Returns:
      The tables of means, to be printed.

    Raises:
      UserError: a bad config, a model that is absent, or files that cannot be written, before anything is measured.
    """
    check(config)
    with full_precision(), together(files.check(config, workdir, report)) as removed:
        tables = _evaluate(config, workdir, show_progress, report)
    for line in removal_notes(removed):
        say(line, sys.stderr)
    return tables


def _evaluate(config: ConfigDict, workdir: Path, show_progress: bool, report: Path | None) -> str:
    if report is not None and config.evaluate.pictures < 1:
        raise UserError(f"config.evaluate.pictures is {config.evaluate.pictures}; allowed with a page: 1 or more")
    trials = trials_of(config.evaluate.stress) if config.evaluate.stress else []
    dvg, procedure, folder = build_dvg(config), build_procedure(config), workdir / files.FOLDER
    trained = methods_of(config, workdir, dvg)
    names = dict.fromkeys(name for method in trained for name in method.requires)
    variables = jax.device_put(load_stages(config, workdir, tuple(names), wanted_by="evaluation"))
    tests = [(config.data.source, build_source(config, "test"), folder)]
    if config.evaluate.also:
        tests.append((config.evaluate.also, build_also(config), files.folder_of(workdir, config.evaluate.also)))
    methods = [*yardsticks(config, dvg), *trained]  # only now: they read all training CTs
    main = main_row(trained, dvg.consistency)
    shown = (*(method.title for method in trained), main)
    page = EvaluationPage(dvg, variables, shown)

    def draw(batch: Measured, scores: Scores) -> None:
        for i, case in enumerate(batch.cases.numbers):
            if case < procedure.pictures:
                _write_pictures(dvg, batch, i, shown, files.pictures_of(folder, case))
                if report is not None:
                    rows = {title: rows[case] for title, rows in scores.volumes.items() if title in (MEAN, *shown)}
                    page.add(batch, i, rows)

    def straighten(films: Views, key: Key) -> Views:
        if set(required_stages(config)) <= set(variables):
            return dvg.align(variables, films, dvg.angles, key).films
        return align(films, table_of(dvg.angles, len(films)), dvg.geometry).films

    calibration = usable(load_calibration(config, workdir), replace(dvg, fit=procedure.fit), dvg.angles)
    if isinstance(calibration, str):
        print(f"no coverage of an error map: {calibration}", file=sys.stderr)
    text = []
    for name, source, place in tests:
        scores = Scores(dvg, procedure.measures, main, calibration if isinstance(calibration, Calibration) else None)
        _measure(methods, variables, source, procedure, scores, draw if place == folder else None, show_progress)
        count = min(procedure.cases, len(source))
        title = f"{count} unseen cases of {name} at {config.size}^3, {config.geometry} geometry"
        if report is not None and place == folder:
            page.write(report, title, config, workdir, scores)
        text.append(scores.write(place, title))
        if trials:
            rows = stress(trials, methods, variables, dvg, source, procedure, straighten, show_progress)
            text.append(write_table(rows, place / "stress", f"Imperfect films: {title}"))
    return "\n\n".join(text)


def _measure(
    methods: Sequence[Method],
    variables: VariablesByStage,
    source: Source,
    procedure: Procedure,
    scores: Scores,
    draw: Callable[[Measured, Scores], None] | None,
    show_progress: bool,
) -> None:
    """Add the rows of a test set to ``scores``, and draw its cases."""
    count = min(procedure.cases, len(source))
    with tqdm(total=count, desc=f"{'evaluation':>15}", disable=not show_progress, dynamic_ncols=True) as bar:
        for batch in measure(methods, variables, scores.dvg, source, procedure):
            scores.add(batch)
            if draw is not None:
                draw(batch, scores)
            bar.update(len(batch.cases.numbers))


def methods_of(config: ConfigDict, workdir: Path, dvg: DVG) -> list[Method]:
    """Build the methods to be measured in a folder; those of the pipeline with the refiner too, where it is trained."""
    methods = [build_method(name, config, dvg) for name in trained_methods(config, workdir)]
    if dvg.consistency != "refine" and not has_refiner(config, workdir):
        return methods
    return [with_refiner(method) if method.title in (DVG_NET, DVG_FULL) else method for method in methods]


def main_row(methods: Sequence[Method], mode: str) -> str:
    """Name the row of the last method that makes CTs from X-rays, in this mode of consistency if it is measured in it.

    It is what ``reconstruct.py`` gives where the pipeline is trained. Empty where no method makes CTs.
    """
    makers = [method for method in methods if method.agrees]
    if not makers:
        return ""
    return agreeing(makers[-1].title, mode) if mode in makers[-1].agrees else makers[-1].title


def trained_methods(config: ConfigDict, workdir: Path) -> list[str]:
    """Name the methods to be measured in a folder, in the order of the tables.

    Comparison methods may be measured alone. Where a part of the pipeline is there, the whole of it is named, so that
    loading it says which stage is missing.
    """
    trained = [name for name in BASELINES if finished_steps(config, workdir, name)]
    if trained and not any(finished_steps(config, workdir, stage) for stage in estimate_stages(config)):
        return trained
    return [*trained, *own_methods(config)]


def _write_pictures(dvg: DVG, batch: Measured, i: int, shown: Sequence[str], paths: tuple[Path, Path]) -> None:
    """Write case ``i`` of a batch as a panel of slices and a strip of views.

    Args:
      dvg: renders the true views.
      batch: what was measured.
      i: the case's place in the batch.
      shown: titles of the rows with a column.
      paths: of panel and strip.
    """
    panel, strip = paths
    truth = batch.cases.truth
    results = {title: found.ct for title, found in batch.predictions.items() if title in shown}
    columns = {title: np.asarray(ct[i, ..., 0]) for title, ct in results.items() if ct is not None and title != CODEC}
    comparison_panel(np.asarray(truth[i, ..., 0]), columns, panel)
    strip_views = {f"{a:g} deg": v for a, v in zip(dvg.angles, dvg.render(truth, dvg.angles)[i], strict=True)}
    made = batch.new_views
    if made is not None:
        for v, angle in enumerate(dvg.new_angles):
            strip_views[f"{angle:g} deg, true"] = batch.true_views[i, v]
            strip_views[f"{angle:g} deg, made"] = made[i, v]
    view_strip({name: np.asarray(view[..., 0]) for name, view in strip_views.items()}, strip)
