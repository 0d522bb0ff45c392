"""A case of the page from what a model was shown and made; reconstruction and evaluation share it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from dvg_jax.ct.frame import Affine, HostVolume
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.dvg import DVG
from dvg_jax.metrics.tables import SHOWN, Row, decimals, figure_names, summarise, table_cells
from dvg_jax.report.content import SPREAD_NOTE, Case, Difference, Film, Layer, Picture, Table
from dvg_jax.shapes import Views
from dvg_jax.xray import ConeBeamGeometry, ray_coverage, view_pose
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
    made: Views | None = None,
    spread_hu: HostVolume | None = None,
    metrics: Mapping[str, Row] | None = None,
) -> Case:
    """What the page shows of one patient.

    Args:
      dvg: the method.
      angles: of the films, in degrees.
      films: as :func:`build_films` makes them.
      results: CTs in [0, 1] by name; the first is the one that the page opens with.
      truth: the CT in [0, 1], where it is known: adds itself and the error of each result.
      made: synthesised views (1, V', h, w, 1) at ``dvg.new_angles``.
      spread_hu: standard deviation over samples, HU.
      metrics: figures by result.
    """
    layers: list[Layer | Difference] = [Layer(name, _hu(ct)) for name, ct in results.items()]
    if spread_hu is not None:
        layers.append(Layer("spread of the samples", spread_hu, "amount", SPREAD_NOTE))
    if truth is not None:
        layers.append(Layer(TRUTH, _hu(truth)))
        layers += [Difference(f"error of {name}", name, TRUTH) for name in results]
    return Case(
        title,
        affine,
        tuple(layers),
        unseen(angles, dvg.geometry),
        tuple(films),
        _views(dvg, next(iter(results.items())), made, truth),
        None if metrics is None else metrics_table(metrics),
    )


def build_films(
    dvg: DVG, angles: tuple[float, ...], titles: Sequence[str], shown: Views, result: HostVolume
) -> list[Film]:
    """Show each input view next to the same view of a result.

    Args:
      dvg: the method, which renders the result.
      angles: of the views, in degrees.
      titles: of the views.
      shown: the input views, (1, V, h, w, 1).
      result: a CT (D, H, W) in [0, 1].
    """
    again = _render(dvg, result, angles)
    pairs = zip(titles, np.asarray(shown[0, ..., 0]), again, strict=True)
    return [Film(title, film, reprojection) for title, film, reprojection in pairs]


def with_records(
    films: Sequence[Film],
    records: Sequence[Mapping[str, Any]],
    originals: Sequence[np.ndarray | None],
    boxes: Sequence[tuple[float, float, float, float] | None],
) -> list[Film]:
    """The films with what is known of how each was read and framed."""
    return [
        replace(film, record=record, original=original, box=box)
        for film, record, original, box in zip(films, records, originals, boxes, strict=True)
    ]


@cache
def unseen(angles: tuple[float, ...], geometry: ConeBeamGeometry) -> Bool[np.ndarray, "D H W"]:
    """Find the voxels that no ray of the views at ``angles`` crosses."""
    poses = np.stack([view_pose(angle) for angle in angles])
    return ~np.asarray(jax.jit(lambda: ray_coverage(poses, geometry))())


def metrics_table(metrics: Mapping[str, Row], title: str = "This case beside the truth") -> Table:
    """A row a result, a column a figure; ``docs/metrics.md`` says what each is."""
    names = figure_names(next(iter(metrics.values())))
    rows = [[result, *(f"{row[n]:.{decimals(n)}f}" for n in names)] for result, row in metrics.items()]
    return Table(title, ["", *names], rows)


def means_tables(
    title: str, rows: Mapping[str, list[Row]], tables: Mapping[str, Sequence[str]] | None = None
) -> list[Table]:
    """Means over cases from the rows of each method; ``tables`` are figures by heading, all in one unless given."""
    summary = {method: summarise(cases) for method, cases in rows.items()}
    every = {"": list(next(iter(summary.values())))}
    made = []
    for heading, names in (tables or every).items():
        head, *body = table_cells(summary, names)
        made.append(Table(": ".join(filter(None, (title, heading, SHOWN))), head, body))
    return made


def _views(
    dvg: DVG, result: tuple[str, HostVolume], made: Views | None, truth: HostVolume | None
) -> tuple[Picture, ...]:
    """The synthesised views, each beside that view of the result and of the truth."""
    if made is None:
        return ()
    columns = {
        "synthesised by DVG-Net": np.asarray(minmax(made[0, ..., 0])),
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
    """(V, h, w), each in [0, 1]."""
    return np.asarray(dvg.render(jnp.asarray(ct)[None, ..., None], angles)[0, ..., 0])


def _hu(ct: HostVolume) -> HostVolume:
    return intensity_to_hu(np.asarray(ct))
