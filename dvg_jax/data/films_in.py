"""From ``FILE@ANGLE`` to the view that a model expects, and a record of what was done on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvg_jax.build import build_source
from dvg_jax.data.film_intensity import match_greys, without_marks
from dvg_jax.data.film_reference import Greys, field_share, thorax_template, training_greys
from dvg_jax.data.films import Film, FilmFacts, fit_film, resized
from dvg_jax.data.frame import FIELD_MM, HostImage
from dvg_jax.data.framing import Examination, Match, crop_square, examine, trim_borders
from dvg_jax.data.sources import PhantomSource
from dvg_jax.errors import UserError
from dvg_jax.reconstructor import Reconstructor
from dvg_jax.xray import ConeBeamGeometry

FRAMES = ("auto", "none")
INTENSITIES = ("match", "none")
WORKING_SIDE = 1024
"""Larger films are shrunk to this before anything else is done: no detector has more than a few hundred pixels."""
CROP_SIDE = 512
"""Edge of the crop in which marks are looked for."""

FOUND = 0.55
"""Score below which no thorax is said to be found; the lowest of 10 real films and 16 views of real CTs is 0.57."""
MIRROR_GAIN = {"frontal": 0.08, "lateral": 0.06}
"""By how much the mirrored template must be better. A frontal view is nearly symmetric, so its sign says less."""
OTHER_GAIN = 0.03
NEGATIVE_GAIN = 0.08
OUTSIDE = 0.2
SIZE_RANGE = (0.75, 1.35)
"""Scale by tags over scale by anatomy, within which tags are believed: adults' lungs differ by less."""
AS_IS = 0.1
SAME_FIELD = 0.01
NEAR_DEG = 30.0
VIEWS = {"PA": "frontal", "AP": "frontal", "LL": "lateral", "RL": "lateral", "LATERAL": "lateral"}


class FilmRequest(NamedTuple):
    """A film on the command line."""

    path: Path
    angle: float
    flip: bool = False


@dataclass(frozen=True)
class FramedFilm:
    """A view for the model: ``(h, w)`` in [0, 1], row 0 the foot end; ``record`` says how it came about, as JSON."""

    image: HostImage
    record: dict[str, Any]

    @property
    def warnings(self) -> list[str]:
        """What the user should look at, one line each."""
        return self.record["warnings"]


@dataclass
class _Log:
    repairs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def parse_film_request(text: str) -> FilmRequest:
    """``FILE@ANGLE`` or ``FILE@ANGLE:flip``; the file's name may hold @ itself."""
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
) -> FramedFilm:
    """One film as the model's geometry shows a chest.

    Args:
      film: as ``read_film`` gives it.
      request: its angle in degrees and whether to mirror it.
      geometry: the model's.
      frame: ``auto`` finds the thorax and brings it to where training views have it; ``none`` takes the largest centred
        crop. Views that ``dvg_jax.data.drr`` rendered are never framed.
      greys: of training views at that angle, to be matched; None leaves the film's own.
      field_mm: edge of the cube that the model's volume stands for.
    """
    log = _Log(list(film.facts.repairs))
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
        view, found = _framed(image, film.facts, request.angle, geometry, field_mm, log)
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
    return FramedFilm(_stretched(view), record)


def frame_films(
    films: Sequence[Film],
    requests: Sequence[FilmRequest],
    reconstructor: Reconstructor,
    frame: str = "auto",
    intensity: str | None = None,
    field_mm: float = FIELD_MM,
    strict: bool = False,
) -> list[FramedFilm]:
    """Every film of a reconstruction, ready for the model.

    Args:
      films: as read, in the model's order of views.
      requests: what each was asked for as.
      reconstructor: whose geometry and training views are the measure.
      frame: ``auto`` or ``none``.
      intensity: ``match`` or ``none``; None matches where films are framed.
      field_mm: edge of the cube that the volume stands for.
      strict: refuse a film that gives a warning.

    Raises:
      UserError: angles that the model was not trained for; a warning under ``strict``.
    """
    reconstructor.check_angles([request.angle for request in requests])
    wanted = (intensity or ("match" if frame == "auto" else "none")) == "match"
    to_match = [r.angle for r, film in zip(requests, films, strict=True) if wanted and film.facts.rendered is None]
    greys = _greys(reconstructor, to_match) if to_match else {}
    framed = [
        frame_film(film, request, reconstructor.dvg.geometry, frame, greys.get(request.angle), field_mm)
        for film, request in zip(films, requests, strict=True)
    ]
    warnings = [warning for film in framed for warning in film.warnings]
    if strict and warnings:
        raise UserError(f"{warnings[0]} (--strict)")
    return framed


def _greys(reconstructor: Reconstructor, angles: Sequence[float]) -> dict[float, Greys]:
    """Of the source that the model was trained on, or of phantoms where that is not at hand."""
    config = reconstructor.config
    try:
        source, name = build_source(config, "train"), str(config.data.source)
    except UserError:
        source, name = PhantomSource(16, config.size), f"phantom ({config.data.source} is not at hand)"
    return training_greys(reconstructor.dvg, source, name, angles)


def _framed(
    image: HostImage, facts: FilmFacts, angle: float, geometry: ConeBeamGeometry, field_mm: float, log: _Log
) -> tuple[HostImage, dict[str, Any]]:
    scale = min(1.0, WORKING_SIDE / max(image.shape))
    work = resized(image, (round(image.shape[0] * scale), round(image.shape[1] * scale))) if scale < 1 else image
    rows, columns = trim_borders(work)
    inside = work[rows, columns]
    if inside.shape != work.shape:
        log.repairs.append("constant borders removed")
    templates = {a: thorax_template(a)[0] for a in dict.fromkeys((angle, 0.0, 90.0))}
    share = field_share(geometry)
    # The largest centred crop, as fit_film takes it, and the square that the template covers when that is the view.
    largest = min(n / s for n, s in zip(work.shape, share, strict=True))
    middle = work.shape[0] / 2 - rows.start, work.shape[1] / 2 - columns.start
    as_is = Match(0, *middle, *(largest * thorax_template(angle)[1],) * 2)
    seen = examine(inside, angle, templates, as_is)
    if seen.negative_gain > NEGATIVE_GAIN:
        log.repairs.append("inverted: it is a negative, lungs bright")
        inside = 1 - inside
        seen = examine(inside, angle, templates, as_is)
    kind = _kind(angle)
    if seen.best.score < FOUND:
        log.warnings.append(
            f"no thorax found (score {seen.best.score:.2f}, want {FOUND}); the centre is taken. Crop it by hand"
        )
        found = {"method": "centre, no thorax found", "score": round(seen.best.score, 3)}
        return fit_film(inside, geometry.detector_shape), found
    _check_reading(seen, kind, log)
    place = as_is if seen.as_is_gain > -AS_IS else seen.best
    centre = place.row, place.column
    side, measure = _cube_side(place.side / thorax_template(angle)[1], facts, scale, field_mm, log)
    sides = side * share[0], side * share[1]
    crop, outside = crop_square(inside, centre, sides, (CROP_SIDE, CROP_SIDE))
    if outside > OUTSIDE:
        log.warnings.append(f"{outside:.0%} of what the model expects lies outside the film and was filled in")
    weight = resized(templates[angle][0].weight, (CROP_SIDE, CROP_SIDE))
    crop, marks = without_marks(crop, weight > 0.5)
    if marks:
        log.repairs.append(f"{marks} bright marks outside the chest painted over")
    top = image.shape[0] - (centre[0] + rows.start + sides[0] / 2) / scale
    left = (centre[1] + columns.start - sides[1] / 2) / scale
    box = {"left": left, "top": top, "width": sides[1] / scale, "height": sides[0] / scale}
    found = {
        "method": "thorax found" if place is seen.best else "thorax found where it should be, left as it is",
        "score": round(seen.best.score, 3),
        "box": {name: round(float(value), 1) for name, value in box.items()},
        "box_unit": "pixels of the file" + (", after mirroring" if "mirrored, as :flip asks" in log.repairs else ""),
        "scale_from": measure,
        "outside_share": round(outside, 3),
        "as_is_gain": round(seen.as_is_gain, 3),
        "mirror_gain": round(seen.mirror_gain, 3),
        "negative_gain": round(seen.negative_gain, 3),
        "other_gain": {f"{a:g}": round(gain, 3) for a, gain in seen.other_gain.items()},
    }
    return resized(crop, geometry.detector_shape), found


def _cube_side(anatomy: float, facts: FilmFacts, scale: float, field_mm: float, log: _Log) -> tuple[float, str]:
    """Edge of the model's cube in pixels of the working film, and what it was measured by."""
    if facts.pixel_mm is None:
        return anatomy, "lungs: no pixel spacing, so the patient's size is the average one"
    patient_mm = float(np.sqrt(np.prod(facts.pixel_mm))) / scale / (facts.magnification or 1.0)
    side = field_mm / patient_mm
    if not SIZE_RANGE[0] <= side / anatomy <= SIZE_RANGE[1]:
        log.warnings.append(
            f"pixel spacing {facts.pixel_mm[0]:g} mm makes the chest {anatomy / side:.1f} times as large as usual; "
            "it was not used"
        )
        return anatomy, "lungs: the pixel spacing is not believed"
    known = f"magnification {facts.magnification:.3f}" if facts.magnification else "magnification unknown, taken as 1"
    return side, f"pixel spacing, {known}"


def _kind(angle: float) -> str | None:
    """Frontal or lateral, where an angle is near enough to say."""
    off = abs((angle + 90) % 180 - 90)
    return "frontal" if off <= NEAR_DEG else "lateral" if off >= 90 - NEAR_DEG else None


def _check_reading(seen: Examination, kind: str | None, log: _Log) -> None:
    if kind is None:
        return
    for other, gain in seen.other_gain.items():
        if _kind(other) != kind and gain > OTHER_GAIN:
            log.warnings.append(f"looks {_kind(other)}, was given as {kind} (by {gain:.2f}): are the views swapped?")
            return
    if seen.mirror_gain > MIRROR_GAIN[kind]:
        sign = "the heart is on the picture's left" if kind == "frontal" else "the patient faces right, want left"
        log.warnings.append(f"looks mirrored (by {seen.mirror_gain:.2f}: {sign}); FILE@ANGLE:flip mirrors it back")


def _check_tags(facts: FilmFacts, angle: float, log: _Log) -> None:
    said, kind = VIEWS.get((facts.view or "").upper()), _kind(angle)
    if said and kind and said != kind:
        log.warnings.append(f"its ViewPosition is {facts.view}, but its angle {angle:g} is {kind}")
    elif facts.view == "AP":
        log.warnings.append("is an AP film: the heart looks larger than in the PA views that models are trained on")


def _check_rendered(rendered: dict[str, float], angle: float, geometry: ConeBeamGeometry, log: _Log) -> None:
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
