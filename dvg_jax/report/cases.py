"""Build a case of the page from a model's inputs and results; reconstruction and evaluation share it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from dvg_jax.calibration import ray_support
from dvg_jax.ct.frame import Affine, HostVolume
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.dvg import DVG
from dvg_jax.metrics.tables import SHOWN, Row, decimals, figure_names, summarise, table_cells
from dvg_jax.report.content import Case, Difference, Film, Layer, Picture, Table
from dvg_jax.shapes import Views
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.views import minmax

TRUTH = "truth"


def build_case(
    title: str,
    dvg: DVG,
    angles: tuple[float, ...],
    films: Sequence[Film],
    results: Mapping[str, HostVolume],
    affine: Affine,
    truth: HostVolume | None = None,
    new_views: Views | None = None,
    maps: Sequence[Layer] = (),
    metrics: Mapping[str, Row] | None = None,
) -> Case:
    """Build the page's content about one patient.

    Args:
      title: title of the case.
      dvg: the method.
      angles: of the films, in degrees.
      films: input views, as from :func:`build_films`.
      results: CTs (D, H, W) in [0, 1] by name; the page opens with the first.
      affine: ``(d, h, w)`` to RAS mm.
      truth: reference CT in [0, 1], if known; adds itself and the error of each result.
      new_views: synthesised views (1, V', h, w, 1) at ``dvg.new_angles``.
      maps: further layers, such as the spread over samples.
      metrics: metrics by result.
    """
    layers: list[Layer | Difference] = [Layer(name, _hu(ct)) for name, ct in results.items()]
    layers += maps
    if truth is not None:
        layers.append(Layer(TRUTH, _hu(truth)))
        layers += [Difference(f"error of {name}", name, TRUTH) for name in results]
    return Case(
        title,
        affine,
        tuple(layers),
        unseen(angles, dvg.geometry),
        tuple(films),
        _views(dvg, next(iter(results.items())), new_views, truth),
        None if metrics is None else metrics_table(metrics),
    )


def build_films(
    dvg: DVG, angles: tuple[float, ...], titles: Sequence[str], views: Views, result: HostVolume
) -> list[Film]:
    """Pair each input view with the same view of a result.

    Args:
      dvg: the method, which renders the result.
      angles: of the views, in degrees.
      titles: title of each view.
      views: input views, (1, V, h, w, 1) in [0, 1].
      result: CT (D, H, W) in [0, 1].
    """
    again = _render(dvg, result, angles)
    pairs = zip(titles, np.asarray(views[0, ..., 0]), again, strict=True)
    return [Film(title, film, reprojection) for title, film, reprojection in pairs]


def with_records(
    films: Sequence[Film],
    records: Sequence[Mapping[str, Any]],
    originals: Sequence[np.ndarray | None],
    boxes: Sequence[tuple[float, float, float, float] | None],
) -> list[Film]:
    """Add to each film how it was read and framed.

    Args:
      films: films of a case.
      records: JSON-able record of each.
      originals: each film before it was framed, (h, w) in [0, 1], or None.
      boxes: part of each original that was kept, or None; see :class:`Film`.
    """
    return [
        replace(film, record=record, original=original, box=box)
        for film, record, original, box in zip(films, records, originals, boxes, strict=True)
    ]


def unseen(angles: tuple[float, ...], geometry: ConeBeamGeometry) -> Bool[np.ndarray, "D H W"]:
    """Find the voxels that no ray of the views at ``angles`` crosses."""
    return ray_support(angles, geometry) == 0


def metrics_table(metrics: Mapping[str, Row], title: str = "This case compared with the truth") -> Table:
    """Tabulate metrics, one row for each result; ``docs/metrics.md`` defines them."""
    names = figure_names(next(iter(metrics.values())))
    rows = [[result, *(f"{row[n]:.{decimals(n)}f}" for n in names)] for result, row in metrics.items()]
    return Table(title, ["", *names], rows)


def means_tables(
    title: str, rows: Mapping[str, list[Row]], tables: Mapping[str, Sequence[str]] | None = None
) -> list[Table]:
    """Tabulate means over cases, one row for each method.

    Args:
      title: first part of each table's title.
      rows: metrics of each case by method.
      tables: names of metrics by heading, one table for each heading; None puts all metrics into one table.
    """
    summary = {method: summarise(cases) for method, cases in rows.items()}
    every = {"": list(next(iter(summary.values())))}
    tabulated = []
    for heading, names in (tables or every).items():
        head, *body = table_cells(summary, names)
        tabulated.append(Table(": ".join(filter(None, (title, heading, SHOWN))), head, body))
    return tabulated


def _views(
    dvg: DVG, result: tuple[str, HostVolume], new_views: Views | None, truth: HostVolume | None
) -> tuple[Picture, ...]:
    """Return the synthesised views, each followed by that view of the result and of the truth."""
    if new_views is None:
        return ()
    columns = {
        "synthesised by DVG-Net": np.asarray(minmax(new_views[0, ..., 0])),
        f"of {result[0]}": _render(dvg, result[1], dvg.new_angles),
    }
    if truth is not None:
        columns["of the truth"] = _render(dvg, truth, dvg.new_angles)
    return tuple(
        Picture(f"{angle:g} degrees, {name}", views[v])
        for v, angle in enumerate(dvg.new_angles)
        for name, views in columns.items()
    )


def _render(dvg: DVG, ct: HostVolume, angles: tuple[float, ...]) -> np.ndarray:
    """Return views (V, h, w) of a CT, each in [0, 1]."""
    return np.asarray(dvg.render(jnp.asarray(ct)[None, ..., None], angles)[0, ..., 0])


def _hu(ct: HostVolume) -> HostVolume:
    return intensity_to_hu(np.asarray(ct))
