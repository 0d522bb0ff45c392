"""List the paper's experiments: every row of its tables with the printed metrics, and the points of its Fig. 5."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

from dvg_jax.xray.views import spread

TABLES = ("I", "II", "III", "V", "VI", "VII", "fig5")

CAPTIONS = {
    "I": "Methods, from one and from two X-rays",
    "II": "View encoder (VPGE) and new view, taken away in turn",
    "III": "Angle of the new view, from one X-ray",
    "V": "Number of input and of new views",
    "VI": "Synthesised X-rays",
    "VII": "With and without diffusion, beside X2CT",
    "fig5": "Number of views, spread over 90 or 360 degrees",
}

FIG5_COUNTS = (1, 2, 3, 4, 6, 8, 12, 20)
FIG5_CURVES = (("vpge_diffusion", 90), ("vpge_diffusion", 360), ("reconnet", 90))
"""Methods and ranges that the paper draws."""

FIG5_PRINTED = {
    ("vpge_diffusion", 90, 3): "V",
    ("vpge_diffusion", 90, 2): "V",
    ("vpge_diffusion", 90, 1): "V",
    ("vpge_diffusion", 360, 1): "V",
    ("reconnet", 90, 2): "I",
    ("reconnet", 90, 1): "I",
}
"""Points whose metrics a table prints; the metrics of the others are in the drawn curve alone."""


class Figures(NamedTuple):
    """Hold the printed metrics: PSNR in dB; SSIM; LPIPS by VGG, of a view or of the 128 slices of an axis, summed."""

    psnr: float
    ssim: float
    lpips: float


@dataclass(frozen=True)
class Row:
    """Describe one line of a table.

    Attributes:
      method: ``dvg_diffusion``, ``vpge_diffusion``, ``newview_diffusion``, ``dvg_net`` or a stage of ``baselines/``.
      angles, new_angles: input and synthesised views, degrees.
      target: the view that is measured instead of the CT (Table VI), degrees.
      paper: what the paper prints; None where it only draws.
      any_views: the run is one model for 1 to so many views (Fig. 5, shared); 0: a model of its own.
    """

    table: str
    setting: str
    label: str
    method: str
    angles: tuple[float, ...]
    new_angles: tuple[float, ...] = ()
    target: float | None = None
    paper: Figures | None = None
    any_views: int = 0


def rows_of(table: str, counts: Sequence[int] = FIG5_COUNTS, shared: bool = True) -> list[Row]:
    """Return the rows of a table of the paper, or the points of Fig. 5 at ``counts`` views.

    ``shared``: VPGE-Diffusion's points are one model's, trained on all sets of views; else each has its own, as in the
    paper. ReconNet's layers depend on the number of views, so it always has one a point.
    """
    if table == "fig5":
        return [_point(method, n, degrees, shared, max(counts)) for method, degrees in FIG5_CURVES for n in counts]
    return [row for row in _printed() if row.table == table]


def with_unrolled(rows: Sequence[Row]) -> list[Row]:
    """Add the comparison method that is not the paper's at the end of every setting of Tables I to III."""
    found: list[Row] = []
    for i, row in enumerate(rows):
        found.append(row)
        last = i + 1 == len(rows) or rows[i + 1].setting != row.setting
        if last and row.table in ("I", "II", "III"):
            found.append(Row(row.table, row.setting, "Unrolled, not the paper's", "unrolled", row.angles))
    return found


def _printed() -> list[Row]:
    text = files("dvg_jax.experiments").joinpath("paper.csv").read_text(encoding="utf-8")
    return [_row(line) for line in csv.DictReader(text.splitlines())]


def _row(line: dict[str, str]) -> Row:
    angles, new_angles = (tuple(map(float, line[name].split())) for name in ("angles", "new_angles"))
    paper = Figures(*(float(line[name]) for name in Figures._fields))
    target = float(line["target"]) if line["target"] else None
    return Row(line["table"], line["setting"], line["label"], line["method"], angles, new_angles, target, paper)


def _point(method: str, count: int, degrees: int, shared: bool, most: int) -> Row:
    angles = spread(count, degrees)
    title = "ReconNet" if method == "reconnet" else "VPGE-Diffusion"
    table = FIG5_PRINTED.get((method, degrees, count))
    printed = [r.paper for r in _printed() if (r.table, r.method, r.angles) == (table, method, angles)]
    any_views = most if shared and method != "reconnet" else 0
    label = f"{title}, {degrees} degrees"
    return Row(
        "fig5",
        "1 view" if count == 1 else f"{count} views",
        label,
        method,
        angles,
        paper=printed[0] if printed else None,
        any_views=any_views,
    )
