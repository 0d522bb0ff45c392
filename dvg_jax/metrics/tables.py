"""Write tables of cases and their means with intervals."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.errors import UserError
from dvg_jax.files.atomic import replacing
from dvg_jax.files.cells import to_cells
from dvg_jax.metrics.bootstrap import mean_interval
from dvg_jax.metrics.tissue import BANDS

Row = dict[str, Any]
SHOWN = "mean [95 % interval]"
LABELS = ("method", "case", "patient", "truth_hu", "lpips_by")
"""Columns that identify a row; all others are metrics."""

_BY_TISSUE = [band.figure for band in BANDS]
_DECIMALS = {
    "ssim": 3, "lpips": 3, "mae_hu": 0, "mse_hu2": 0, "mae_unit": 4, "mse_unit": 4, "cosine": 4, "covered": 1,
    "half_width": 0,
}  # fmt: skip


def figure_names(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of a row that are metrics."""
    return [name for name in row if name not in LABELS]


def labels(row: Mapping[str, Any]) -> Row:
    """Return the columns of a row that identify it."""
    return {name: value for name, value in row.items() if name in LABELS}


def patients_of(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the patient id of each row (its case number if there is none)."""
    return [row.get("patient", row["case"]) for row in rows]


def whole(of: str, row: Row) -> Row:
    """Return a row as it is; raise UserError for a metric that is not finite, which no mean may leave out.

    An error by tissue is NaN where the truth lacks the tissue. ``of`` names what was measured.
    """
    case = f", case {row['case']}," if "case" in row else ""
    for name in figure_names(row):
        if name not in _BY_TISSUE and not math.isfinite(row[name]):
            raise UserError(f"{name} of {of}{case} is {row[name]}; allowed: finite numbers")
    return row


def decimals(name: str) -> int:
    """Return how many decimals a metric is printed with; a metric by tissue or the like has those of its parent."""
    if name.endswith("_line_error"):
        return 3
    return next((n for start, n in _DECIMALS.items() if name.startswith(start) and name != "lpips_sum"), 2)


def summarise(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return mean, 95 % interval and number of cases of each metric, over the cases that have it.

    The interval is a bootstrap over patients with a fixed seed.
    """
    patients = patients_of(rows)
    summary = {}
    for name in figure_names(rows[0]):
        values = np.array([row[name] for row in rows], np.float64)
        mean, low, high = mean_interval(values, patients)
        summary[name] = {"mean": mean, "low": low, "high": high, "n": int(np.isfinite(values).sum())}
    return summary


def write_table(
    rows: dict[str, list[Row]], path: Path, title: str, tables: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Write ``path``.csv with a row a case and method and ``path``.json with the means; return the table of means.

    Args:
      rows: by method; all with the same metrics, and ``case``.
      path: of the files, without suffix.
      title: of the table.
      tables: metrics by heading, to divide the printed table.

    Raises:
      UserError: a metric is not finite, as :func:`whole` says.
    """
    flat = [{"method": method, **whole(method, case)} for method, cases in rows.items() for case in cases]
    summary = {method: summarise(cases) for method, cases in rows.items()}
    with replacing(path.with_suffix(".csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(map(to_cells, flat))
    means = {method: {name: without_nan(s) for name, s in found.items()} for method, found in summary.items()}
    with replacing(path.with_suffix(".json")) as part:
        part.write_text(json.dumps({"title": title, "methods": means}, indent=2) + "\n", encoding="utf-8")
    text = f"{title} ({SHOWN})"
    for heading, names in (tables or {"": list(next(iter(summary.values())))}).items():
        text += (f"\n\n{heading}" if heading else "") + "\n\n" + align(table_cells(summary, names))
    return text


def table_cells(summary: Mapping[str, dict[str, dict[str, float]]], names: Sequence[str]) -> list[list[str]]:
    """Return a head and one row a method with these metrics, from what :func:`summarise` returns for each."""
    return [["method", *names], *([method, *(_cell(n, s[n]) for n in names)] for method, s in summary.items())]


def align(table: list[list[str]]) -> str:
    """Format rows of cells, the first the head, as a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def interval_cell(name: str, mean: float, low: float, high: float, more: int = 0) -> str:
    """Format ``mean [low, high]``, or a dash where no case has the metric.

    Args:
      name: of the metric, which decides the decimals.
      mean: over cases.
      low: lower end of the interval.
      high: upper end.
      more: decimals to add.
    """
    d = decimals(name) + more
    return f"{mean:.{d}f} [{low:.{d}f}, {high:.{d}f}]" if math.isfinite(mean) else "-"


def _cell(name: str, figure: dict[str, float]) -> str:
    return interval_cell(name, figure["mean"], figure["low"], figure["high"])


def without_nan(row: Mapping[str, Any]) -> Row:
    """Replace NaN, which a tissue that the truth lacks has, by None: JSON has no NaN."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}
