"""Frame a film: bring the thorax to its place in training views, and warn of doubtful findings."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dvg_jax.ct.frame import HostImage, NewHostImage
from dvg_jax.data.films.greys import without_marks
from dvg_jax.data.films.read import FilmFacts, fit_film, resized
from dvg_jax.data.films.search import Examination, Match, crop_square, examine, side_rank, trim_borders
from dvg_jax.data.films.template import field_share, thorax_template
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.placement import margin_of

WORKING_SIDE = 1024
"""Longest side in pixels to which larger films are shrunk: a model's detector has at most a few hundred."""
CROP_SIDE = 512
"""Edge in pixels of the crop in which marks are searched, without its margin."""

FOUND = 0.55
"""Least score of a thorax; the lowest of 10 real films and 16 views of real CTs is 0.57."""
MIRROR_GAIN = {"frontal": 0.08, "lateral": 0.06}
"""Least gain of the mirrored template for a warning. A frontal view is nearly symmetric, so it needs more."""
OTHER_GAIN = 0.03
NEGATIVE_GAIN = 0.08
OUTSIDE = 0.2
SIZE_RANGE = (0.75, 1.35)
"""Allowed ratio of the scale by tags to the scale by anatomy: adults' lungs differ by less."""
AS_IS = 0.1
NEAR_DEG = 30.0
NOMINAL = {"frontal": 0.0, "lateral": 90.0}


@dataclass
class Log:
    """Collect lines about one film: repairs that were made, and warnings for the user."""

    repairs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Working(NamedTuple):
    """Hold a film shrunk by ``scale`` for the search; ``rows`` and ``columns`` leave out its borders."""

    image: HostImage
    scale: float
    rows: slice
    columns: slice

    @property
    def inside(self) -> HostImage:
        """Return the film without its borders, (h, w)."""
        return self.image[self.rows, self.columns]


def working_film(image: HostImage) -> Working:
    """Shrink a film and leave out its constant borders."""
    scale = min(1.0, WORKING_SIDE / max(image.shape))
    work = resized(image, (round(image.shape[0] * scale), round(image.shape[1] * scale))) if scale < 1 else image
    return Working(work, scale, *trim_borders(work))


def framed_view(
    image: HostImage,
    facts: FilmFacts,
    angle: float,
    geometry: ConeBeamGeometry,
    field_mm: float,
    log: Log,
    exchanged: bool | None = None,
) -> tuple[NewHostImage, dict[str, Any]]:
    """Bring the thorax to its place in training views at ``angle``, and keep a margin around it.

    Args:
      image: the film (h, w), already mirrored if the user asked for it.
      facts: facts that its file states.
      angle: angle of its view in degrees.
      geometry: the model's geometry.
      field_mm: edge in mm of the cube that the model's volume covers.
      log: receives repairs and warnings.
      exchanged: True if another film was judged to have this one's view, False if each has its own, None if no other
        film could decide.

    Returns:
      The view with its margin (H, W), or (h, w) without one where no thorax is found; and a JSON-able record of how it
      was found.
    """
    work = working_film(image)
    if work.inside.shape != work.image.shape:
        log.repairs.append("constant borders removed")
    share = field_share(geometry)
    # The largest centred crop, as in fit_film, and the square that the template covers in that case.
    largest = min(n / s for n, s in zip(work.image.shape, share, strict=True))
    middle = work.image.shape[0] / 2 - work.rows.start, work.image.shape[1] / 2 - work.columns.start
    as_is = Match(0, *middle, *(largest * thorax_template(angle)[1],) * 2)
    inside, seen = _examined(work.inside, angle, as_is, log, exchanged)
    if seen.best.score < FOUND:
        if not exchanged:
            log.warnings.append(
                f"no thorax found (score {seen.best.score:.2f}, want {FOUND}); the centre is taken. Crop it by hand"
            )
        found = {"method": "centre, no thorax found", "score": round(seen.best.score, 3)}
        return fit_film(inside, geometry.detector_shape), found
    if not exchanged:
        _check_reading(seen, kind_of(angle), exchanged is None, log)
    place = as_is if seen.as_is_gain > -AS_IS else seen.best
    centre = place.row, place.column
    side, measure = _cube_side(place.side / thorax_template(angle)[1], facts, work.scale, field_mm, log)
    sides = side * share[0], side * share[1]
    _, outside = crop_square(inside, centre, sides, (CROP_SIDE, CROP_SIDE))
    if outside > OUTSIDE and not exchanged:
        log.warnings.append(f"{outside:.0%} of what the model expects lies outside the film and was filled in")
    crop, marks = _crop_with_margin(inside, centre, sides, geometry.detector_shape, thorax_template(angle)[0][0].weight)
    if marks:
        log.repairs.append(f"{marks} bright marks outside the chest painted over")
    top = image.shape[0] - (centre[0] + work.rows.start + sides[0] / 2) / work.scale
    left = (centre[1] + work.columns.start - sides[1] / 2) / work.scale
    box = {"left": left, "top": top, "width": sides[1] / work.scale, "height": sides[0] / work.scale}
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
    return crop, found


def _crop_with_margin(
    image: HostImage,
    centre: tuple[float, float],
    sides: tuple[float, float],
    shape: tuple[int, int],
    chest: Float[np.ndarray, "edge edge"],
) -> tuple[NewHostImage, int]:
    """Return a view of a film with its margin, free from marks outside the chest, and the number of these marks.

    The chest is where its weight, an image of the view without margin, is above a half.
    """
    wide = [n + sum(more) for n, more in zip(shape, margin_of(shape), strict=True)]
    ratios = [n / inner for n, inner in zip(wide, shape, strict=True)]
    margin = [round(CROP_SIDE * (ratio - 1) / 2) for ratio in ratios]
    fine = CROP_SIDE + 2 * margin[0], CROP_SIDE + 2 * margin[1]
    crop, _ = crop_square(image, centre, (sides[0] * ratios[0], sides[1] * ratios[1]), fine)
    inside = np.pad(resized(chest, (CROP_SIDE, CROP_SIDE)) > 0.5, [(n, n) for n in margin])
    crop, marks = without_marks(crop, inside, CROP_SIDE)
    return resized(crop, (wide[0], wide[1])), marks


def _examined(
    inside: HostImage, angle: float, as_is: Match, log: Log, exchanged: bool | None
) -> tuple[HostImage, Examination]:
    """Return the film as a positive, and the findings on it."""
    templates = {a: thorax_template(a)[0] for a in dict.fromkeys((angle, *NOMINAL.values()))}
    seen = examine(inside, angle, templates, as_is)
    # In a lateral film, air next to the body reveals a negative better than the lungs, which are dark in either.
    lateral = kind_of(angle) == "lateral"
    negative = side_rank(inside) > 0.5 if lateral else seen.negative_gain > NEGATIVE_GAIN
    # A view under another view's angle can look like its negative: no exchanged view is inverted.
    if exchanged or not negative:
        return inside, seen
    log.repairs.append(f"inverted: it is a negative, {'air' if lateral else 'lungs'} bright")
    return 1 - inside, examine(1 - inside, angle, templates, as_is)


def _cube_side(anatomy: float, facts: FilmFacts, scale: float, field_mm: float, log: Log) -> tuple[float, str]:
    """Return the edge of the model's cube in pixels of the working film, and how it was measured."""
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


def kind_of(angle: float) -> str | None:
    """Return frontal or lateral, None where the angle is near neither."""
    off = abs((angle + 90) % 180 - 90)
    return "frontal" if off <= NEAR_DEG else "lateral" if off >= 90 - NEAR_DEG else None


def _check_reading(seen: Examination, kind: str | None, alone: bool, log: Log) -> None:
    """Warn of a film that looks mirrored or, where no other film could decide it, like another view."""
    if kind is None:
        return
    for other, gain in seen.other_gain.items():
        if alone and kind_of(other) != kind and gain > OTHER_GAIN:
            log.warnings.append(f"looks {kind_of(other)}, was given as {kind} (by {gain:.2f}): are the views swapped?")
            return
    if seen.mirror_gain > MIRROR_GAIN[kind]:
        sign = "the heart is on the picture's left" if kind == "frontal" else "the patient faces right, want left"
        log.warnings.append(f"looks mirrored (by {seen.mirror_gain:.2f}: {sign}); FILE@ANGLE:flip mirrors it back")
