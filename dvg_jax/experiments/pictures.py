"""Draw the paper's Figures: slices, errors, synthesised views, and curves over the number of views."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dvg_jax.errors import UserError
from dvg_jax.experiments.catalogue import Row
from dvg_jax.experiments.claims import FIGURES
from dvg_jax.experiments.measure import result_path
from dvg_jax.experiments.reproduce import Experiment, Results
from dvg_jax.experiments.tables import UNITS
from dvg_jax.files.atomic import replacing
from dvg_jax.metrics.tables import summarise
from dvg_jax.viz import methods_panel, views_panel

PANELS = {"I": "Fig. 3", "II": "Fig. 4", "VII": "Fig. 8"}
"""Tables whose methods the paper shows as slices and error maps."""


def check_drawable(tables: Sequence[str]) -> None:
    """Raise UserError, before anything is trained, where a table's figures cannot be drawn."""
    if "fig5" in tables and find_spec("matplotlib") is None:
        raise UserError("curves need matplotlib, which is absent; allowed: pip install 'dvg-jax[figures]'")


def draw(table: str, rows: Sequence[Row], experiment: Experiment, results: Results) -> Iterator[Path]:
    """Write the pictures that belong to a table into ``report``; yields their paths."""
    folder = experiment.workdir / "report"
    for test in experiment.tests:
        end = test.name.replace(" ", "_")
        if table in PANELS:
            for setting in dict.fromkeys(row.setting for row in rows):
                mine = [row for row in rows if row.setting == setting]
                path = folder / f"table_{table}_{setting.replace(' ', '_')}_{end}.png"
                kept = {row.label: _kept(experiment, row, test.name) for row in mine}
                truth = next(iter(kept.values()))["truth"][0]
                methods_panel(truth, {label: arrays["result"][0] for label, arrays in kept.items()}, path)
                yield path
        elif table == "VI":
            path = folder / f"table_VI_{end}.png"
            views_panel({s: _views(experiment, results, rows, s, test.name) for s in _settings(rows)}, path)
            yield path
        elif table == "fig5":
            path = folder / f"fig5_{end}.png"
            _curves(rows, experiment, results, test.name, path)
            yield path


def _settings(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.setting for row in rows))


def _kept(experiment: Experiment, row: Row, data: str) -> dict[str, np.ndarray]:
    path = result_path(experiment.workdir / "results", experiment.runs[row].name, data).with_suffix(".npz")
    with np.load(path) as file:
        return {name: np.asarray(file[name], np.float32) for name in file.files}


def _views(
    experiment: Experiment, results: Results, rows: Sequence[Row], setting: str, data: str
) -> dict[str, np.ndarray]:
    """Return the true view of the first case, and each method's."""
    images: dict[str, np.ndarray] = {}
    for row in (r for r in rows if r.setting == setting):
        place = list(results[experiment.runs[row].name, data]["views"]).index(f"{row.target:g}")
        kept = _kept(experiment, row, data)
        images.setdefault("truth", kept["true_views"][0, place])
        images[row.label] = kept["views"][0, place]
    return images


def _curves(rows: Sequence[Row], experiment: Experiment, results: Results, data: str, path: Path) -> None:
    from matplotlib.figure import Figure  # an extra: tables do without it

    measured = [f for f in FIGURES if f in results[experiment.runs[rows[0]].name, data]["cases"][0]]
    figure = Figure(figsize=(4.2 * len(measured), 4.0), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured, strict=True):
        for label in dict.fromkeys(row.label for row in rows):
            points = [row for row in rows if row.label == label]
            counts = [len(row.angles) for row in points]
            means = [summarise(results[experiment.runs[row].name, data]["cases"])[name] for row in points]
            (line,) = axes.plot(counts, [m["mean"] for m in means], marker="o", markersize=4, label=label)
            low, high = ([m[end] for m in means] for end in ("low", "high"))
            axes.fill_between(counts, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
            printed = [(n, getattr(row.paper, name)) for n, row in zip(counts, points, strict=True) if row.paper]
            if name != "lpips" and printed:
                x, y = zip(*printed, strict=True)
                axes.plot(x, y, linestyle="", marker="x", color=line.get_color(), label=f"{label}, paper (128^3, LIDC)")
        axes.set(xlabel="input views", ylabel=UNITS[name], xticks=sorted({len(row.angles) for row in rows}))
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(f"{data}, bands: 95 % intervals of the mean", fontsize=9)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)
