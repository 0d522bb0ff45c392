"""Find the thorax in a film by template matching.

A template is the mean view of phantoms and their mean thickness of lung, over the lungs and a margin around them. A
film is trimmed of constant borders, equalised, shrunk, and compared by weighted normalised cross-correlation with the
template at every place, over a range of sizes and proportions. The best place is where the cube that the model
reconstructs would lie. The same score compares other readings: the mirrored template, another angle's, the negative.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import SimpleITK
from jaxtyping import Float

from dvg_jax.ct.frame import HostImage, NewHostImage
from dvg_jax.data.films.read import resized

WORKING_SIDE = 48
"""Pixels of the longer side to which a film is shrunk for the search."""
PADDING = 24
TRANSFORM = 96
"""Edge of the Fourier transforms: at least the padded film (96), so that correlations do not wrap around."""
SIZES = np.geomspace(0.5, 1.5, 13)
"""Edges of the template to try, as shares of the film's longer side."""
PROPORTIONS = np.geomspace(0.75, 1.33, 5)
"""Ratios of height to width to try, since patients differ from phantoms."""
STRETCH_COST = 0.3
"""Penalty on the score per squared logarithm of the proportion."""
FLATTEST = 1e-3
"""Least variance of equalised values at a place; it is 1/12 over the whole film."""
BORDER_TOLERANCE = 0.02
AIR = 0.1
"""Edge pixels darker than this share of white count as air."""
SIDE_SHARE = 0.06
"""Share of a lateral film's width that shows air, on either side."""
SMALLEST_SHARE = 0.2
"""Share of a side at which trimming stops."""


class Layer(NamedTuple):
    """Hold a square picture to search for, the weight of each pixel, and the layer's share of the score.

    Row 0 is the foot end.
    """

    picture: Float[np.ndarray, "n n"]
    weight: Float[np.ndarray, "n n"]
    share: float


Template = tuple[Layer, ...]
"""Layers of one angle over the same square, whose shares sum to 1."""


@dataclass(frozen=True)
class Match:
    """Describe the best place of a template, in pixels of the film; (row, column) is its middle.

    ``negative_score`` is the best score of the negative, which may be at another place.
    """

    score: float
    row: float
    column: float
    height: float
    width: float
    negative_score: float = -np.inf

    @property
    def side(self) -> float:
        """Return the edge of the square of the same area, since films are not stretched."""
        return float(np.sqrt(self.height * self.width))


@dataclass(frozen=True)
class Examination:
    """Describe the thorax in a film, and the score gains of other readings of the film (below 0: they are worse).

    Attributes:
      best: place of the thorax.
      as_is_gain: gain of the place where the film would be framed already.
      mirrored: True if the mirrored template is better.
      mirror_gain, negative_gain: gains of the mirrored film and of the negative.
      other_gain: gains of other views, by angle in degrees.
    """

    best: Match
    as_is_gain: float
    mirrored: bool
    mirror_gain: float
    negative_gain: float
    other_gain: Mapping[float, float]


def trim_borders(image: HostImage) -> tuple[slice, slice]:
    """Return the rows and columns that are left without constant borders, including nested frames."""
    tolerance = BORDER_TOLERANCE * float(np.ptp(image))
    top, bottom, left, right = 0, image.shape[0], 0, image.shape[1]
    smallest = [max(1, round(SMALLEST_SHARE * n)) for n in image.shape]

    def constant(line: np.ndarray) -> bool:
        return float(np.subtract(*np.percentile(line, (99, 1)))) <= tolerance

    # Corners belong to two sides: repeat until no side changes, so that a frame inside a frame is removed too.
    moved = True
    while moved:
        before = (top, bottom, left, right)
        while bottom - top > smallest[0] and constant(image[top, left:right]):
            top += 1
        while bottom - top > smallest[0] and constant(image[bottom - 1, left:right]):
            bottom -= 1
        while right - left > smallest[1] and constant(image[top:bottom, left]):
            left += 1
        while right - left > smallest[1] and constant(image[top:bottom, right - 1]):
            right -= 1
        moved = before != (top, bottom, left, right)
    return slice(top, bottom), slice(left, right)


def examine(image: HostImage, angle: float, templates: Mapping[float, Template], as_is: Match) -> Examination:
    """Find the thorax as the view at ``angle`` shows it, and score every other reading.

    Args:
      image: film ``(h, w)``, row 0 the foot end, without borders.
      angle: angle of the view in degrees, one of the templates'.
      templates: templates by angle in degrees; every other one is tried too.
      as_is: place of the template if the film were framed already; its score is not used.
    """
    film, scale = _working(image)
    own = templates[angle]
    plain, mirrored = _search(film, own), _search(film, _mirror(own))
    best = max(plain, mirrored, key=lambda match: match.score)
    others = {
        other: max(_search(film, layers).score, _search(film, _mirror(layers)).score) - best.score
        for other, layers in templates.items()
        if other != angle
    }
    fine = _search(
        film,
        _mirror(own) if mirrored.score > plain.score else own,
        sizes=best.side / WORKING_SIDE * np.geomspace(0.94, 1.06, 5),
        proportions=best.height / best.width * np.geomspace(0.94, 1.06, 3),
    )
    best = max(best, fine, key=lambda match: match.score)
    unframed = max(_score_at(film, layers, as_is, scale) for layers in (own, _mirror(own)))
    return Examination(
        Match(best.score, *(value / scale for value in (best.row, best.column, best.height, best.width))),
        unframed - best.score,
        mirrored.score > plain.score,
        mirrored.score - plain.score,
        max(plain.negative_score, mirrored.negative_score) - max(plain.score, mirrored.score),
        others,
    )


def readings(image: HostImage, templates: Mapping[float, Template]) -> dict[float, tuple[float, float]]:
    """Score how well a film shows each angle's view, mirrored or not, as (positive, negative).

    Args:
      image: ``(h, w)``, row 0 the foot end, without borders.
      templates: templates by angle in degrees.
    """
    film, _ = _working(image)
    found = {a: [_search(film, one) for one in (layers, _mirror(layers))] for a, layers in templates.items()}
    return {
        a: (max(match.score for match in both), max(match.negative_score for match in both))
        for a, both in found.items()
    }


def side_rank(image: HostImage) -> float:
    """Return the mean rank of the pixels at a film's left and right edge: 0 the darkest, 1 the brightest.

    It was at most 0.31 in 27 lateral films and views, so at least 0.69 in their negatives.
    """
    film, _ = _working(image)
    # Ties, such as air, get the middle of their ranks, so that a negative has 1 minus the rank.
    ranks = (film + 1 - _working(-image)[0]) / 2
    strip = max(1, round(SIDE_SHARE * film.shape[1]))
    return float(ranks[:, :strip].mean() + ranks[:, -strip:].mean()) / 2


def likeness(a: HostImage, b: NewHostImage) -> float:
    """Return the correlation of two films, shrunk to one square and equalised: 1 for one film under a rising curve."""
    one, other = (_equalised(resized(image, (WORKING_SIDE, WORKING_SIDE))).ravel() for image in (a, b))
    return float(np.corrcoef(one, other)[0, 1])


def crop_square(
    image: HostImage, centre: tuple[float, float], sides: tuple[float, float], shape: tuple[int, int]
) -> tuple[NewHostImage, float]:
    """Crop a box from a film and resize it without aliasing; beyond the film its edge is repeated.

    Args:
      image: film (h, w).
      centre: middle of the box, (row, column) in pixels.
      sides: height and width of the box in pixels.
      shape: rows and columns of the result.

    Returns:
      The crop, and the share of it that was filled in with anything but air, which is black.
    """
    low = [c - side / 2 for c, side in zip(centre, sides, strict=True)]
    high = [c + side / 2 for c, side in zip(centre, sides, strict=True)]
    margins = [
        (max(0, int(np.ceil(-a))), max(0, int(np.ceil(b - n)))) for a, b, n in zip(low, high, image.shape, strict=True)
    ]
    padded = np.pad(image, margins, mode="edge")
    (top, bottom), (left, right) = (
        (a + before, b + before) for a, b, (before, _) in zip(low, high, margins, strict=True)
    )
    box = (left, top, min(right, padded.shape[1]), min(bottom, padded.shape[0]))
    crop = resized(padded, shape, box)
    inside = resized(np.pad(np.ones_like(image), margins), shape, box)
    return crop, float(((1 - inside) * (crop > AIR)).mean())


def _working(image: HostImage) -> tuple[NewHostImage, float]:
    """Return a film shrunk and equalised, and the scale; any film curve, window or gamma gives the same."""
    scale = WORKING_SIDE / max(image.shape)
    small = resized(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))
    return _equalised(small), scale


def _equalised(image: HostImage) -> HostImage:
    ordered = np.sort(image, axis=None)
    return (np.searchsorted(ordered, image) / ordered.size).astype(np.float32)


def _mirror(template: Template) -> Template:
    return tuple(Layer(picture[:, ::-1], weight[:, ::-1], share) for picture, weight, share in template)


def _score_at(film: HostImage, template: Template, place: Match, scale: float) -> float:
    """Return the score at one place, given in pixels of the film before it was scaled."""
    side = max(1, round(place.side * scale))
    crop, _ = crop_square(film, (place.row * scale, place.column * scale), (side, side), (side, side))
    total = 0.0
    for layer in template:
        picture, weight = resized(layer.picture, (side, side)), resized(layer.weight, (side, side))
        picture = picture - np.average(picture, weights=weight)
        crop = crop - np.average(crop, weights=weight)
        variance = max(float(np.average(crop**2, weights=weight)), FLATTEST) * np.average(picture**2, weights=weight)
        total += layer.share * float(np.average(picture * crop, weights=weight) / np.sqrt(variance))
    return total


def _search(
    film: HostImage,
    template: Template,
    sizes: Iterable[float] = SIZES,
    proportions: Iterable[float] = PROPORTIONS,
) -> Match:
    padded = np.pad(film, PADDING, mode="edge")
    values, squares = (_spectrum(part) for part in (padded, padded * padded))
    best, negative = Match(-np.inf, 0, 0, 1, 1), -np.inf
    proportions = tuple(proportions)
    for size in sizes:
        for proportion in proportions:
            height, width = (round(size * WORKING_SIDE * proportion**power) for power in (0.5, -0.5))
            if height > padded.shape[0] or width > padded.shape[1]:
                continue
            scores = np.sum([_scores(values, squares, layer, (height, width)) for layer in template], axis=0)
            scores = scores[: padded.shape[0] - height + 1, : padded.shape[1] - width + 1]
            row, column = np.unravel_index(scores.argmax(), scores.shape)
            cost = STRETCH_COST * float(np.log(proportion)) ** 2
            score = float(scores[row, column]) - cost
            negative = max(negative, -float(scores.min()) - cost)
            if score > best.score:
                best = Match(score, row - PADDING + height / 2, column - PADDING + width / 2, height, width)
    return replace(best, negative_score=negative)


def _scores(values: np.ndarray, squares: np.ndarray, layer: Layer, shape: tuple[int, int]) -> np.ndarray:
    """Return the weighted correlation of a layer, resized to ``shape``, with the film at every offset.

    It is weighted by the layer's share.
    """
    picture, weight = resized(layer.picture, shape), resized(layer.weight, shape)
    weight = weight / weight.sum()
    centred = picture - (weight * picture).sum()

    around, pattern = (_spectrum(kernel) for kernel in (weight, weight * centred))
    variance = _correlation(squares, around) - _correlation(values, around) ** 2
    scale = np.sqrt(np.maximum(variance, FLATTEST) * (weight * centred**2).sum())
    return layer.share * _correlation(values, pattern) / scale


def _spectrum(image: np.ndarray) -> np.ndarray:
    return np.fft.rfft2(image, (TRANSFORM, TRANSFORM))


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the correlation of two images at every offset, from their spectra."""
    return np.fft.irfft2(one * np.conj(other))


def blurred(image: HostImage, sigma: float) -> HostImage:
    """Blur an image (h, w) by a Gaussian of ``sigma`` pixels."""
    picture = SimpleITK.GetImageFromArray(np.ascontiguousarray(image, np.float32))
    return SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(picture, sigma))
