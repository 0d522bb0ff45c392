"""Define the content of a page.

Arrays are as everywhere in the project: volumes (D, H, W), X-rays with row 0 at the FOOT end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from dvg_jax.calibration import MAPPED
from dvg_jax.ct.frame import Affine, HostImage, HostVolume

SPREAD_NOTE = (
    "The spread of samples is not an error bar: with the model of the demo a nominal 90 % interval from 8 samples "
    "covers 13.5 % of body voxels on phantoms and 9.8 % on real scans, since the error is 8 to 12 times the spread."
)
"""Note on the spread that page, record and printed lines repeat wherever they state it."""

SHORTFALL = (
    "with the model of the demo it held for 94 % of body voxels of phantoms and 85 % of body voxels of 13 real scans"
)
"""It says what the 90 % of a map that was calibrated on phantoms are worth, by ``benchmarks.spread``."""


def error_note(cases: int, kind: str) -> str:
    """Explain the error map of a model calibrated on so many cases, ``phantoms`` or ``scans``.

    Page, record and printed lines repeat it wherever they state the map.
    """
    note = (
        f"Error map: at {MAPPED} % of voxels the error is expected to be below it, over cases like the {cases} {kind} "
        "that it was calibrated on."
    )
    return f"{note} Patients are no such cases: {SHORTFALL}." if kind == "phantoms" else note


@dataclass(frozen=True)
class Layer:
    """Hold a volume: a CT in HU, or a non-negative map such as a standard deviation.

    A CT is displayed through a window, a map in colours from 0. ``note`` is a warning to the reader; the page lists it
    among its warnings.
    """

    name: str
    hu: HostVolume
    kind: Literal["ct", "amount"] = "ct"
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """Describe the absolute difference of two layers by their names; the browser computes it, which saves room."""

    name: str
    of: str
    against: str


@dataclass(frozen=True)
class Film:
    """Hold an input view and the same view of the result, both min-max normalised to [0, 1].

    Attributes:
      title: title of the view.
      input_view: the view that the model sees, (h, w).
      reprojection: the same view of the result, (h, w).
      original: the film before it was framed, (rows, columns) in [0, 1], if it is displayed.
      box: part of ``original`` that framing kept: top, left, bottom, right in its pixels, counted with the HEAD AT THE
        TOP as it is displayed.
      record: further JSON-able facts, displayed unchanged.
    """

    title: str
    input_view: HostImage
    reprojection: HostImage
    original: Float[np.ndarray, "rows columns"] | None = None
    box: tuple[float, float, float, float] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """Hold a single X-ray (h, w) in [0, 1] and its title."""

    title: str
    image: HostImage


@dataclass(frozen=True)
class Table:
    """Hold formatted cells; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Case:
    """Hold the content about one patient or phantom.

    Attributes:
      title: title of the case.
      affine: ``(d, h, w)`` of every layer to RAS mm.
      layers: volumes in the order of the menu; the page opens with the first.
      unseen: voxels that no ray of the input views crosses.
      films: input views with reprojections.
      views: synthesised views and what they are compared with.
      metrics: metrics of the case.
    """

    title: str
    affine: Affine
    layers: tuple[Layer | Difference, ...]
    unseen: Bool[np.ndarray, "D H W"] | None = None
    films: tuple[Film, ...] = ()
    views: tuple[Picture, ...] = ()
    metrics: Table | None = None


@dataclass(frozen=True)
class Page:
    """Hold a whole page; ``settings`` are displayed unchanged, ``tables`` are about all cases."""

    title: str
    cases: tuple[Case, ...]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
