"""Match a film's grey levels to the model's training views.

A film is roughly the logarithm of the exposure, under an unknown curve; a training view is the line integral itself.
Both rise with attenuation, so some monotone curve maps one to the other. The curve used here is piecewise linear and
gives the framed film the mean quantiles of the training views: histogram matching at a few levels. The darkest and the
brightest hundredth are cut, since they may contain marks and metal.
"""

import numpy as np
import SimpleITK

from dvg_jax.ct.frame import HostImage
from dvg_jax.data.films.template import LEVELS, Greys
from dvg_jax.xray.placement import around, middle_of

MARK_SHARE = 0.015
"""Half the width of a letter's widest stroke, as a share of the picture's edge."""
MARK_CONTRAST = 0.25
MARK_EXTENT = 0.15
"""Largest extent of a letter, as a share of the edge: longer pieces are bones and edges of clothes."""


def without_marks(image: HostImage, chest: np.ndarray, edge: int) -> tuple[HostImage, int]:
    """Paint letters and other small bright strokes outside the chest over with their surroundings.

    Args:
      image: (h, w) in [0, 1].
      chest: (h, w), True where nothing may be changed.
      edge: of the view without its margin, in pixels.

    Returns:
      The image, and the number of marks.
    """
    picture = SimpleITK.GetImageFromArray(np.ascontiguousarray(image, np.float32))
    ground = SimpleITK.GrayscaleMorphologicalOpening(picture, (max(1, round(MARK_SHARE * edge)),) * 2)
    outside = SimpleITK.GetImageFromArray((~chest).astype(np.uint8))
    strokes = ((picture - ground) > MARK_CONTRAST) & outside
    pieces = SimpleITK.ConnectedComponent(SimpleITK.BinaryDilate(strokes, (2, 2)), True)
    shapes = SimpleITK.LabelShapeStatisticsImageFilter()
    shapes.Execute(pieces)
    small = [n for n in shapes.GetLabels() if max(shapes.GetBoundingBox(n)[2:]) <= MARK_EXTENT * edge]
    painted = np.isin(SimpleITK.GetArrayFromImage(pieces), small) & ~chest
    return np.where(painted, SimpleITK.GetArrayFromImage(ground), image), len(small)


def match_greys(image: HostImage, greys: Greys) -> tuple[HostImage, tuple[list[float], list[float]]]:
    """Match the histogram over rays that cross the whole cube, then apply the cube's silhouette.

    The curve is monotone: brighter pixels stay brighter or become equal. A margin is as dim as the view's edge.

    Args:
      image: a view (h, w), or one with a margin.
      greys: of the training views.

    Returns:
      The image, and the curve, (from, to).
    """
    view = middle_of(image.shape, greys.silhouette.shape)
    # The added steps keep levels distinct where a film is saturated.
    found = np.quantile(image[view][greys.whole], LEVELS) + 1e-6 * LEVELS
    matched = np.interp(image, found, greys.quantiles).astype(np.float32)
    dimmed = matched * np.pad(greys.silhouette, around(greys.silhouette.shape, image.shape), mode="edge")
    return dimmed, (found.round(4).tolist(), greys.quantiles.round(4).tolist())
