"""Compare two runs, or two methods of one, case by case: difference B - A of every metric.

python -m dvg_jax.metrics.paired --a runs/one/evaluation/volumes.csv --b runs/two/evaluation/volumes.csv
python -m dvg_jax.metrics.paired --a runs/demo/evaluation/volumes.csv --method-a DVG-Net --method-b DVG-Diffusion
"""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":  # before the imports below, which take seconds in which a signal may come
    run_module("dvg_jax.metrics.paired")


import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.cli.flags import Parser
from dvg_jax.errors import UserError, visible
from dvg_jax.files.cells import from_cell
from dvg_jax.metrics.bootstrap import mean_interval, sign_flip_p
from dvg_jax.metrics.tables import LABELS, Row, align, decimals, figure_names, interval_cell, patients_of, whole

TRUTH_TOLERANCE_HU = 0.1
"""A phantom drawn on another machine differs by rounding; another case differs by whole HU."""


@dataclass(frozen=True)
class Difference:
    """Hold B - A of one metric.

    Attributes:
      figure: name of the metric.
      a, b: means over the cases that both have.
      mean, low, high: of the paired difference; bootstrap 95 % interval over patients.
      p: two-sided, by flipping the signs of patients.
      n: cases.
    """

    figure: str
    a: float
    b: float
    mean: float
    low: float
    high: float
    p: float
    n: int


def read_rows(path: Path) -> dict[str, list[Row]]:
    """Read a table that ``evaluate.py`` has written: rows by method, metrics as numbers.

    Raises:
      UserError: the file is missing or no such table, or a metric is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; allowed: a volumes.csv, views.csv or reprojections.csv of evaluate.py")
    rows: dict[str, list[Row]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            if not {"method", "case"} <= set(table.fieldnames or ()):
                raise UserError(f"{path} has columns {table.fieldnames}; allowed: method, case and figures")
            for line in table:
                if None in line:
                    raise UserError(f"{path}: line {table.line_num} has more cells than columns; allowed: as many")
                row = {name: _value(path, name, cell) for name, cell in line.items()}
                rows.setdefault(row["method"], []).append(whole(f"{row['method']} in {path}", row))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}); allowed: a table of evaluate.py") from error
    if not rows:
        raise UserError(f"{path} holds no case; allowed: a table of evaluate.py")
    return rows


def compare_paired(a: list[Row], b: list[Row]) -> list[Difference]:
    """Return B - A of every metric that both have.

    Raises:
      UserError: a run has a case twice, the cases, their patients or their truths differ, or so does the LPIPS.
    """
    by_case = [{row["case"]: row for row in rows} for rows in (a, b)]
    for name, rows, cases in zip("AB", (a, b), by_case, strict=True):
        if len(cases) < len(rows):
            raise UserError(f"{name} has {len(rows)} rows for {len(cases)} cases; allowed: one row a case")
    if by_case[0].keys() != by_case[1].keys():
        odd = sorted(by_case[0].keys() ^ by_case[1].keys())
        raise UserError(f"cases {_list(odd)} are in one run alone; allowed: runs over the same cases")
    pairs = [(row, by_case[1][case]) for case, row in by_case[0].items()]
    for x, y in pairs:
        _same(x, y)
    patients = patients_of(a)
    names = [name for name in figure_names(a[0]) if name in b[0]]
    return [_difference(name, pairs, patients) for name in names]


def _difference(name: str, pairs: list[tuple[Row, Row]], patients: list[Any]) -> Difference:
    a, b = np.array([(x[name], y[name]) for x, y in pairs], np.float64).T
    both = np.isfinite(b - a)
    mean_a, mean_b = (float(x[both].mean()) if both.any() else float("nan") for x in (a, b))
    mean, low, high = mean_interval(b - a, patients)
    return Difference(name, mean_a, mean_b, mean, low, high, sign_flip_p(b - a, patients), int(both.sum()))


def _same(x: Row, y: Row) -> None:
    """Check that two rows are about the same truth, measured in the same way."""
    for label in ("patient", "truth_hu", "lpips_by"):
        if label not in x or label not in y:
            continue  # a table of another source
        close = label == "truth_hu" and abs(float(x[label]) - float(y[label])) <= TRUTH_TOLERANCE_HU
        if x[label] != y[label] and not close:
            raise UserError(
                f"case {x['case']} has {label} {x[label]} in A and {y[label]} in B; allowed: the same in both"
            )


def table(differences: list[Difference]) -> str:
    """Format the differences as a Markdown table, one row a metric."""
    head = ["figure", "A", "B", "B - A [95 % interval]", "p", "n"]
    body = [
        [d.figure, *(f"{x:.{decimals(d.figure) + 1}f}" for x in (d.a, d.b)),
         interval_cell(d.figure, d.mean, d.low, d.high, 1), f"{d.p:.2g}", str(d.n)]
        for d in differences
    ]  # fmt: skip
    return align([head, *body])


def main(argv: list[str] | None = None) -> None:
    """Run the command line: see the module's docstring."""
    parser = Parser(__doc__, "python -m dvg_jax.metrics.paired")
    parser.add_argument("--a", type=Path, required=True, help="a table of evaluate.py")
    parser.add_argument("--b", type=Path, help="another run's; the same file if left out")
    parser.add_argument("--method", help="one method, in both; else every method that both have")
    parser.add_argument("--method-a", help="of A")
    parser.add_argument("--method-b", help="of B")
    options = parser.parse_args(argv)
    a, b = read_rows(options.a), read_rows(options.b or options.a)
    for x, y in _method_pairs(options, a, b):
        print(
            visible(f"A: {x}, {options.a}\nB: {y}, {options.b or options.a}\n\n{table(compare_paired(a[x], b[y]))}\n")
        )


def _method_pairs(options: argparse.Namespace, a: dict[str, list[Row]], b: dict[str, list[Row]]) -> list:
    named = (options.method_a or options.method, options.method_b or options.method)
    if any(named):
        for flag, name, rows in zip("ab", named, (a, b), strict=True):
            if name not in rows:
                raise UserError(f"the method of {flag.upper()} is {name!r}; allowed: {', '.join(rows)}")
        pairs = [named]
    else:
        pairs = [(name, name) for name in a if name in b]
    if not pairs:
        raise UserError(f"A has {_list(list(a))}, B has {_list(list(b))}; allowed: files that share a method")
    if (options.b or options.a).resolve() == options.a.resolve() and any(x == y for x, y in pairs):
        raise UserError("A and B are the same rows; allowed: --b another file, or --method-a and --method-b")
    return pairs


def _value(path: Path, column: str, text: str | None) -> Any:
    if text is None:
        raise UserError(f"{path}: a row without {column}; allowed: a value in every column")
    if column in LABELS:
        return from_cell(text)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}: {column} is {text!r}; allowed: numbers") from None


def _list(names: list[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
