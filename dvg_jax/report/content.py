"""What a page shows. Arrays are as everywhere: volumes (D, H, W), X-rays with row 0 at the FOOT end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from dvg_jax.ct.frame import Affine, HostImage, HostVolume

SPREAD_NOTE = (
    "The spread of samples is not an error bar: a nominal 90 % interval from 16 samples covered 7 % of body voxels on "
    "phantoms and 4 % on real scans, as samples hardly differ while the error is eleven to twenty times their spread."
)
"""Page, record and printed lines repeat this note wherever they give the spread."""


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
    """The absolute difference of two layers, by name; the browser computes it, so it takes no room in the file."""

    name: str
    of: str
    against: str


@dataclass(frozen=True)
class Film:
    """An input view beside the same view of the result, both min-max normalised to [0, 1].

    Attributes:
      original: the film before it was framed, [0, 1], if it is to be shown.
      box: what the framing kept of ``original``: top, left, bottom, right in its pixels, counted with the HEAD AT THE
        TOP as people see it.
      record: any further facts, as JSON holds them; shown as they are.
    """

    title: str
    shown: HostImage
    reprojection: HostImage
    original: HostImage | None = None
    box: tuple[float, float, float, float] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A single X-ray in [0, 1]."""

    title: str
    image: HostImage


@dataclass(frozen=True)
class Table:
    """Cells as they are to be read; the first column names the row."""

    title: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Case:
    """One patient or phantom.

    Attributes:
      affine: ``(d, h, w)`` of every layer to RAS mm.
      layers: in the order in which they are offered; the first is shown first.
      unseen: voxels that no ray of the input views crosses.
      views: synthesised views and what they are compared with.
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
    """A whole page; ``settings`` are shown as they are, ``tables`` are about all cases."""

    title: str
    cases: tuple[Case, ...]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
