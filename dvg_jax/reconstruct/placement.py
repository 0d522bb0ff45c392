"""Bring framed films to their nominal views, and record and warn of what was found about them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from dvg_jax.ct.frame import HostVolume
from dvg_jax.errors import UserError
from dvg_jax.film_curve import FilmCurve
from dvg_jax.reconstruct.films import FilmRequest, FramedFilm
from dvg_jax.reconstruct.reconstructor import Reconstructor
from dvg_jax.xray.placement import margin_of

ALIGNMENTS = ("auto", "none", "rows", "model")

LARGE = {"height_mm": 40.0, "size": 0.05, "roll_deg": 4.0, "tilt_deg": 4.0}
"""Larger differences from the nominal view are warned of; of 18 true pairs one is larger."""

UNLIKE = 0.5
"""Row sums that are less alike are warned of: 3 of 18 true pairs, of which one has a film that is cut."""

STATED = 5
"""A record states a curve at so many greys."""

FALL = -0.2
"""A curve that falls by more than this share of its rise between two levels is warned of: 1 of 36 true films."""


def alignment_mode(asked: str, frame: str, framed: Sequence[FramedFilm]) -> str:
    """Return what ``auto`` means: nothing is changed about views that are rendered, or are given as the model's own.

    Args:
      asked: one of ``ALIGNMENTS``.
      frame: how the films were framed, ``auto`` or ``none``.
      framed: the films.
    """
    if asked != "auto":
        return asked
    own = frame == "none" or all(film.record["facts"]["rendered"] for film in framed)
    return "none" if own else "model"


def align_films(
    framed: Sequence[FramedFilm],
    requests: Sequence[FilmRequest],
    reconstructor: Reconstructor,
    mode: str,
    strict: bool = False,
    consistency: str | None = None,
) -> list[FramedFilm]:
    """Return films at their nominal views, each with a record ``alignment``.

    Args:
      framed: the films, in the model's order of views.
      requests: path and angle of each.
      reconstructor: the model.
      mode: ``none``, ``rows`` or ``model``, from :func:`alignment_mode`.
      strict: True to refuse a film that gives a warning.
      consistency: mode of the CTs that films are compared with; the model's unless given.

    Raises:
      UserError: there is a warning under ``strict``.
    """
    if mode == "none":
        return list(framed)
    found = reconstructor.align(
        _with_margins(framed), [request.angle for request in requests], mode, consistency=consistency
    )
    place = found.placement
    aligned = []
    for v, film in enumerate(framed):
        numbers = {
            "height_mm": float(place.height_mm[0, v]),
            "size": float(np.expm1(place.scale[0, v])),
            "roll_deg": float(place.roll_deg[0, v]),
            "tilt_deg": float(place.tilt_deg[0, v]),
        }
        likeness = float(found.likeness[0, v])
        record = {
            "by": mode,
            **{name: round(x, 4) for name, x in numbers.items()},
            "likeness": round(likeness, 3),
            "curve": _stated(found.curve, v),
        }
        file, first = requests[v].path.name, requests[0].path.name
        warnings = [f"{file}: {line}" for line in _warnings(numbers, likeness, first, alone=len(framed) == 1)]
        if strict and warnings:
            raise UserError(f"{warnings[0]} (--strict)")
        whole = {**film.record, "alignment": record, "warnings": [*film.record["warnings"], *warnings]}
        aligned.append(replace(film, image=np.asarray(found.films[0, v, ..., 0]), record=whole, wide=None))
    return aligned


def _with_margins(framed: Sequence[FramedFilm]) -> Float[np.ndarray, "V H W"]:
    """Return films with their margins; where only some have one, the edges of the others go on."""
    if all(film.wide is None for film in framed):
        return np.stack([film.image for film in framed])
    margin = margin_of(framed[0].image.shape)
    return np.stack([np.pad(f.image, margin, mode="edge") if f.wide is None else f.wide for f in framed])


def _warnings(numbers: dict[str, float], likeness: float, first: str, alone: bool) -> list[str]:
    """Return what is so far from the nominal view that a reader should look at the film."""
    found = {
        "height_mm": f"shows the patient {-numbers['height_mm']:+.0f} mm from where {first} does; it was moved there",
        "size": f"shows the patient {100 * numbers['size']:+.0f} % larger than the films' mean; it was resized",
        "roll_deg": f"is turned by {numbers['roll_deg']:+.0f} degrees; it was turned back",
        "tilt_deg": f"is tilted by {numbers['tilt_deg']:+.0f} degrees about its rows; it was straightened",
    }
    lines = [line for name, line in found.items() if abs(numbers[name]) > LARGE[name]]
    if likeness < UNLIKE and not alone:
        lines.append(f"rows are unlike those of {first} (likeness {likeness:.2f}); its height is not reliable")
    return lines


def _stated(curve: FilmCurve, view: int) -> dict[str, list[float]]:
    """Return a film's curve as a record has it: greys, and the share of the curve's rise at each."""
    knots = np.linspace(0, curve.greys.shape[-1] - 1, STATED).round().astype(int)
    parts = (np.asarray(x, float)[0, view][knots] for x in (curve.greys, curve.rise))
    return {name: [round(float(x), 4) for x in part] for name, part in zip(("from", "to"), parts, strict=True)}


def with_curves(
    films: Sequence[FramedFilm], requests: Sequence[FilmRequest], reconstructor: Reconstructor, ct: HostVolume
) -> list[FramedFilm]:
    """Return films with the curve by which the result explains each in its record; of aligned films, bent ones warn.

    Args:
      films: the films, in the model's order of views.
      requests: path and angle of each.
      reconstructor: the model.
      ct: the result, (D, H, W).
    """
    angles = [request.angle for request in requests]
    curve = reconstructor.curves(ct, np.stack([film.image for film in films]), angles)
    found = []
    for v, (film, request) in enumerate(zip(films, requests, strict=True)):
        record = {**film.record, "curve": _stated(curve, v)}
        if "alignment" in record and np.diff(record["curve"]["to"]).min() < FALL:
            line = f"{request.path.name}: the result explains its greys only by a curve that falls; compare both films"
            record["warnings"] = [*record["warnings"], line]
        found.append(replace(film, record=record))
    return found
