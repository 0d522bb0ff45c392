"""Fit films to a model's views, and record every change."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvg_jax.config.build import build_source
from dvg_jax.ct.frame import FIELD_MM, HostImage, NewHostImage
from dvg_jax.data.films.frame import Log, framed_view, kind_of
from dvg_jax.data.films.greys import match_greys
from dvg_jax.data.films.pair import Verdict, judge_films
from dvg_jax.data.films.read import Film, FilmFacts, fit_film
from dvg_jax.data.films.template import Greys, field_share
from dvg_jax.data.sources import PhantomSource
from dvg_jax.errors import UserError
from dvg_jax.reconstruct.greys import training_greys
from dvg_jax.reconstruct.reconstructor import Reconstructor
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.placement import middle_of

FRAMES = ("auto", "none")
INTENSITIES = ("match", "none")
SAME_FIELD = 0.01
VIEWS = {"PA": "frontal", "AP": "frontal", "LL": "lateral", "RL": "lateral", "LATERAL": "lateral"}


class FilmRequest(NamedTuple):
    """Hold a film of the command line: its file, its angle in degrees, and True if it must be mirrored."""

    path: Path
    angle: float
    flip: bool = False


@dataclass(frozen=True)
class FramedFilm:
    """Hold a view for the model, row 0 the foot end.

    Attributes:
      image: (h, w), [0, 1].
      record: of its origin, JSON-able.
      wide: the view with a margin that the film shows, (H, W); None where it is not framed, or already aligned.
    """

    image: HostImage
    record: dict[str, Any]
    wide: NewHostImage | None = None

    @property
    def warnings(self) -> list[str]:
        """Return the warnings for the user, one line each."""
        return self.record["warnings"]


def parse_film_request(text: str) -> FilmRequest:
    """Parse ``FILE@ANGLE`` or ``FILE@ANGLE:flip``; the file's name may contain @. Raises UserError for other text."""
    name, _, rest = text.rpartition("@")
    angle, colon, word = rest.partition(":")
    try:
        degrees = float(angle)
        if not name or not np.isfinite(degrees) or (colon and word != "flip"):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--xray is {text}; allowed: FILE@ANGLE with an angle in degrees, such as ap.png@0, or FILE@ANGLE:flip"
        ) from None
    return FilmRequest(Path(name), degrees, word == "flip")


def frame_film(
    film: Film,
    request: FilmRequest,
    geometry: ConeBeamGeometry,
    frame: str = "auto",
    greys: Greys | None = None,
    field_mm: float = FIELD_MM,
    verdict: Verdict | None = None,
) -> FramedFilm:
    """Fit one film to the model's imaging geometry.

    Args:
      film: the film as ``read_film`` returns it.
      request: its angle in degrees, and True if it must be mirrored.
      geometry: the model's geometry.
      frame: ``auto`` finds the thorax and brings it to its place in training views; ``none`` takes the largest centred
        crop. Views that ``dvg_jax.data.drr`` rendered are never framed.
      greys: grey levels of training views at that angle, to be matched; None leaves the film's own.
      field_mm: edge in mm of the cube that the model's volume covers.
      verdict: findings on this film from the patient's other films.
    """
    verdict = verdict or Verdict()
    log = Log(list(film.facts.repairs), [*verdict.warnings, *film.facts.warnings])
    image = film.image[:, ::-1] if request.flip else film.image
    if request.flip:
        log.repairs.append("mirrored, as :flip asks")
    _check_tags(film.facts, request.angle, log)
    if film.facts.rendered is not None or frame == "none":
        if film.facts.rendered is not None:
            _check_rendered(film.facts.rendered, request.angle, geometry, log)
        view, found = fit_film(image, geometry.detector_shape), {"method": "centre"}
        greys = greys if film.facts.rendered is None else None
    else:
        view, found = framed_view(image, film.facts, request.angle, geometry, field_mm, log, verdict.exchanged)
    intensity: dict[str, Any] = {"method": "none"}
    if greys is not None:
        view, (before, after) = match_greys(view, greys)
        reference = f"{greys.cases} views of {greys.source}"
        intensity = {"method": "histogram", "reference": reference, "curve": {"from": before, "to": after}}
    record = {
        "file": str(request.path),
        "angle_deg": request.angle,
        "facts": film.facts.record(),
        "frame": found,
        "intensity": intensity,
        "repairs": log.repairs,
        "warnings": [f"{film.facts.file}: {warning}" for warning in log.warnings],
    }
    rows, columns = middle_of(view.shape, geometry.detector_shape)
    image = view[rows, columns]
    return FramedFilm(_stretched(image), record, None if view.shape == image.shape else view)


def frame_films(
    films: Sequence[Film],
    requests: Sequence[FilmRequest],
    reconstructor: Reconstructor,
    frame: str = "auto",
    intensity: str | None = None,
    field_mm: float = FIELD_MM,
    strict: bool = False,
) -> list[FramedFilm]:
    """Fit every film of a reconstruction to the model.

    Args:
      films: films as read.
      requests: path, angle and mirroring that were asked for, one for each film.
      reconstructor: the model, whose geometry and training views the films are fitted to.
      frame: ``auto`` or ``none``, as in :func:`frame_film`.
      intensity: ``match`` or ``none``; None matches where films are framed.
      field_mm: edge in mm of the cube that the volume covers.
      strict: True to refuse a film that gives a warning.

    Raises:
      UserError: the model was not trained for these angles, or there is a warning under ``strict``.
    """
    angles = [request.angle for request in requests]
    reconstructor.view_order(angles)
    verdicts = judge_films(films, [str(request.path) for request in requests], angles)
    _refuse_warnings(
        strict, [f"{film.facts.file}: {line}" for film, v in zip(films, verdicts, strict=True) for line in v.warnings]
    )
    wanted = (intensity or ("match" if frame == "auto" else "none")) == "match"
    to_match = [r.angle for r, film in zip(requests, films, strict=True) if wanted and film.facts.rendered is None]
    greys = _greys(reconstructor, to_match) if to_match else {}
    framed = [
        frame_film(film, request, reconstructor.dvg.geometry, frame, greys.get(request.angle), field_mm, verdict)
        for film, request, verdict in zip(films, requests, verdicts, strict=True)
    ]
    _refuse_warnings(strict, [warning for film in framed for warning in film.warnings])
    return framed


def _refuse_warnings(strict: bool, warnings: Sequence[str]) -> None:
    if strict and warnings:
        raise UserError(f"{warnings[0]} (--strict)")


def _greys(reconstructor: Reconstructor, angles: Sequence[float]) -> dict[float, Greys]:
    """Return grey levels of the model's training source, or of phantoms where that is not available."""
    config = reconstructor.config
    try:
        source, name = build_source(config, "train"), str(config.data.source)
    except UserError:
        source, name = PhantomSource(16, config.size), f"phantom ({config.data.source} is not at hand)"
    return training_greys(reconstructor.dvg, source, name, angles)


def _check_tags(facts: FilmFacts, angle: float, log: Log) -> None:
    stated, kind = VIEWS.get((facts.view or "").upper()), kind_of(angle)
    if stated and kind and stated != kind:
        log.warnings.append(f"its ViewPosition is {facts.view}, but its angle {angle:g} is {kind}")
    elif facts.view == "AP":
        log.warnings.append("is an AP film: the heart looks larger than in the PA views that models are trained on")


def _check_rendered(rendered: dict[str, float], angle: float, geometry: ConeBeamGeometry, log: Log) -> None:
    log.repairs.append("rendered by dvg_jax, not framed")
    share = field_share(geometry)[1]
    if abs(rendered.get("field_share", share) - share) > SAME_FIELD:
        log.warnings.append(
            f"rendered for a detector that sees {rendered['field_share']:.3f} of the cube; the model's sees {share:.3f}"
        )
    if abs(rendered.get("angle_deg", angle) - angle) > SAME_FIELD:
        log.warnings.append(f"rendered at {rendered['angle_deg']:g} degrees, given as {angle:g}")


def _stretched(view: HostImage) -> HostImage:
    low, high = float(view.min()), float(view.max())
    return (view - low) / (high - low) if high > low else view
