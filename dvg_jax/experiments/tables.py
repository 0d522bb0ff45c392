"""Write tables for people and for programs: our metrics next to the paper's, and the verdict on each claim."""

import csv
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvg_jax.experiments.catalogue import CAPTIONS, Figures, Row
from dvg_jax.experiments.claims import HOLDS, OPEN, OPPOSITE, Verdict, claims_of, judge
from dvg_jax.experiments.measure import Result, yardstick_name
from dvg_jax.experiments.plan import degrees
from dvg_jax.experiments.reproduce import Experiment, Results
from dvg_jax.files.atomic import replacing
from dvg_jax.files.cells import to_cells
from dvg_jax.methods.base import CODEC, LINEAR, agreeing
from dvg_jax.methods.yardsticks import YARDSTICKS
from dvg_jax.metrics.tables import align, interval_cell, summarise

UNITS = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "lpips_sum": "LPIPS, sum"}
OF_CTS = "PSNR of the volume, peak 2500 HU; SSIM and LPIPS slice by slice over three axes (the paper's is the sum)."
OF_VIEWS = "Figures of an X-ray, min-max normalised, peak 1."
MARKS = {HOLDS: "yes", OPPOSITE: "NO", OPEN: "open"}


@dataclass(frozen=True)
class Line:
    """Hold a row of a table as measured on one test set; ``row`` is None for what the paper's table does not have."""

    data: str
    setting: str
    label: str
    row: Row | None
    result: Result

    @property
    def cases(self) -> list[dict]:
        """Return the metrics by case, of the row's view or of CTs."""
        if self.row is None or self.row.target is None:
            return self.result["cases"]
        return self.result["views"][f"{self.row.target:g}"]


def write_report(table: str, rows: Sequence[Row], experiment: Experiment, results: Results, facts: dict) -> Path:
    """Write ``report/table_<name>.md``, ``.csv`` (a line a row and test set) and ``.json`` (with metrics by case).

    Args:
      facts: what produced it: command, scale, seed, device, versions, date.

    Returns:
      The Markdown file.
    """
    lines = [line for test in experiment.tests for line in _lines(rows, experiment, results, test.name)]
    verdicts = {test.name: _verdicts(table, rows, lines, test.name) for test in experiment.tests}
    path = report_path(experiment.workdir, table)
    with replacing(path) as part:
        part.write_text(_markdown(table, lines, verdicts, experiment, facts), encoding="utf-8")
    with replacing(path.with_suffix(".csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        flat = [_flat(line) for line in lines]
        writer = csv.DictWriter(file, list(dict.fromkeys(name for f in flat for name in f)))
        writer.writeheader()
        writer.writerows(map(to_cells, flat))
    with replacing(path.with_suffix(".json")) as part:
        whole = {"table": table, "caption": CAPTIONS[table], **facts, "lines": [_whole(line) for line in lines]}
        part.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return path


def report_path(workdir: Path, table: str) -> Path:
    """Return the path of a table's Markdown; CSV and JSON share its name, names of pictures begin with it."""
    return workdir / "report" / f"{table if table.startswith('fig') else f'table_{table}'}.md"


def written_before(table: str, workdir: Path) -> list[Path]:
    """Return the pictures of that table that an earlier report has left."""
    path = report_path(workdir, table)
    return sorted(path.parent.glob(f"{path.stem}_*.png"))


def _lines(rows: Sequence[Row], experiment: Experiment, results: Results, data: str) -> list[Line]:
    if any(row.target is not None for row in rows):
        return [Line(data, r.setting, r.label, r, results[experiment.runs[r].name, data]) for r in rows]
    lines = []
    for row in rows:
        run = experiment.runs[row]
        labels = (row.label, *(agreeing(row.label, mode) for mode in run.agrees))
        for label, name in zip(labels, run.rows, strict=True):
            lines.append(Line(data, row.setting, label, row if name == run.name else None, results[name, data]))
    return [*lines, *_yardsticks(list(dict.fromkeys(row.angles for row in rows)), results, data)]


def _yardsticks(sets: Sequence[tuple[float, ...]], results: Results, data: str) -> Iterator[Line]:
    """Yield the lines of the yardsticks, for each set of X-rays where they use X-rays."""
    for title in YARDSTICKS:
        for angles in sets:
            name, shown = yardstick_name(title, angles), f"{degrees(angles)} degrees"
            if title == LINEAR:
                yield Line(data, "yardstick", f"{title}, {shown}", None, results[name, data])
            elif angles == sets[0]:
                yield Line(data, "yardstick", title, None, results[name, data])
            fitted = results[agreeing(name, "films"), data]
            yield Line(data, "yardstick", f"{agreeing(title, 'films')}, {shown}", None, fitted)
    if (CODEC, data) in results:
        yield Line(data, "yardstick", CODEC, None, results[CODEC, data])


def _verdicts(table: str, rows: Sequence[Row], lines: list[Line], data: str) -> list[Verdict]:
    cases = {line.row: line.cases for line in lines if line.data == data and line.row is not None}
    theirs = [row for row in rows if row.method != "unrolled"]
    return [verdict for claim in claims_of(table, theirs) for verdict in judge(claim, cases)]


def _markdown(
    table: str, lines: list[Line], verdicts: dict[str, list[Verdict]], experiment: Experiment, facts: dict
) -> str:
    number = f"Table {table}" if not table.startswith("fig") else "Fig. 5"
    measured = lines[0].cases[0]
    shown = [f for f in ("psnr", "ssim", "lpips_sum" if "lpips_sum" in measured else "lpips") if f in measured]
    parts = [f"# {number} of the paper: {CAPTIONS[table]}", _preamble(table, experiment, facts)]
    for data, judged in verdicts.items():
        mine = [line for line in lines if line.data == data]
        parts.append(f"## {data}, {len(mine[0].cases)} cases")
        parts.append(_table(mine, shown))
        if judged:
            parts += ["What the paper claims, judged by the paired difference over cases:", _claims(judged)]
    return "\n\n".join(parts) + "\n"


def _preamble(table: str, experiment: Experiment, facts: dict) -> str:
    base, net = experiment.base, experiment.procedure.measures.lpips_by or "no network"
    kind = OF_VIEWS if table == "VI" else OF_CTS
    produced = (
        f"{base.size}^3, {base.geometry} geometry, trained on {base.data.source}, seed {base.seed}; "
        f"{facts['device']}; {facts['versions']}; {facts['date']}; CDDPM in {base.baselines.cddpm.space} space; "
        f"{base.timesteps} time steps, sampled in {base.sampler.steps or base.timesteps}."
    )
    meant = (
        f"Means over cases [95 % bootstrap interval]; LPIPS by {net}. {kind} The paper's figures are of LIDC-IDRI at "
        "128^3 with LPIPS by VGG: at another size, on other data, orders can be compared and values cannot. Training "
        "CTs are how many all networks of a run were shown, repetitions counted. Rows + consistency are the same CTs, "
        "changed as little as makes them agree with their X-rays."
    )
    wrapped = (textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) for text in (produced, meant))
    return "\n\n".join((f"`{facts['command']}`", *wrapped))


def _table(lines: list[Line], shown: Sequence[str]) -> str:
    head = ["setting", "method", *(UNITS[f] for f in shown), *(f"paper's {UNITS[f]}" for f in shown)]
    head += ["parameters", "training CTs", "seconds a case"]
    body = []
    for line in lines:
        summary = summarise(line.cases)
        paper = line.row.paper if line.row else None
        cells = [line.setting, line.label, *(_cell(f, summary[f]) for f in shown), *(_printed(paper, f) for f in shown)]
        trained = sum(line.result["trained"].values())
        cells += [f"{line.result['parameters']:,}", f"{trained:,}", f"{line.result['seconds_per_case']:.2f}"]
        body.append(cells)
    return align([head, *body])


def _cell(figure: str, summary: dict[str, float]) -> str:
    return interval_cell(figure, summary["mean"], summary["low"], summary["high"])


def _printed(paper: Figures | None, figure: str) -> str:
    return f"{getattr(paper, figure.removesuffix('_sum')):g}" if paper else ""


def _claims(verdicts: Sequence[Verdict]) -> str:
    body = [
        [v.claim.text, v.figure.upper(), interval_cell(v.figure, v.difference, v.low, v.high, more=1), MARKS[v.word]]
        for v in verdicts
    ]
    counts = {word: sum(v.word == word for v in verdicts) for word in (HOLDS, OPPOSITE, OPEN)}
    summary = f"{counts[HOLDS]} hold, {counts[OPPOSITE]} are the opposite, {counts[OPEN]} are not told apart"
    table = align([["claim", "figure", "difference in its favour", "found"], *body])
    return f"{table}\n\nOf {len(verdicts)}: {summary}."


def _flat(line: Line) -> dict[str, Any]:
    """Return one line of the CSV: every measured metric with its interval, and the paper's."""
    flat: dict[str, Any] = {"data": line.data, "setting": line.setting, "label": line.label}
    flat |= {"run": line.result["subject"], "n": len(line.cases)}
    for name, summary in summarise(line.cases).items():
        flat |= {name: summary["mean"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
    if line.row and line.row.paper:
        flat |= {f"paper_{name}": value for name, value in line.row.paper._asdict().items()}
    flat |= {"parameters": line.result["parameters"], "training_cts": sum(line.result["trained"].values())}
    return flat | {"seconds_per_case": line.result["seconds_per_case"]}


def _whole(line: Line) -> dict[str, Any]:
    return {**_flat(line), "trained": line.result["trained"], "cases": line.cases}
