"""From cases to a table: means, intervals, files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.data.files import replacing

RESAMPLES = 2000
Row = dict[str, Any]
DECIMALS = {"ssim": 3, "lpips": 3, "mae_hu": 0}
SHOWN = "mean [95 % interval]"


def summarise(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Mean of each figure over cases, with a bootstrap 95 % interval of that mean (fixed seed) and the case count."""
    random = np.random.default_rng(0)
    picks = random.integers(0, len(rows), (RESAMPLES, len(rows)))
    summary = {}
    for name in (n for n in rows[0] if n != "case"):
        values = np.array([row[name] for row in rows], np.float64)
        low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
        summary[name] = {"mean": values.mean(), "low": low, "high": high, "n": len(rows)}
    return summary


def write_table(rows: dict[str, list[Row]], path: Path, title: str) -> str:
    """Write ``path``.csv with a row a case and method and ``path``.json with the means; return the table of means.

    Args:
      rows: by method; all with the same figures, and ``case``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    summary = {method: summarise(cases) for method, cases in rows.items()}
    flat = [{"method": method, **case} for method, cases in rows.items() for case in cases]
    with replacing(path.with_suffix(".csv")) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
    with replacing(path.with_suffix(".json")) as part:
        part.write_text(json.dumps({"title": title, "methods": summary}, indent=2) + "\n")
    return f"{title} ({SHOWN})\n\n" + _align(table_cells(summary))


def table_cells(summary: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """A head and a row a method, from what :func:`summarise` gives of each: the cells of the table of means."""
    names = list(next(iter(summary.values())))
    body = [[method, *(_cell(name, s[name]) for name in names)] for method, s in summary.items()]
    return [["method", *names], *body]


def _cell(name: str, figure: dict[str, float]) -> str:
    digits = DECIMALS.get(name, 2)
    return f"{figure['mean']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _align(table: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in table]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
