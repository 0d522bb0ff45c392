"""A film's greys made those of the views that the model was trained on.

A film is roughly the logarithm of the exposure, under a curve that nobody wrote down; a training view is the line
integral itself. Both rise with what the ray passed, so some monotone curve leads from one to the other: here the one
of straight pieces that gives the framed film the mean quantiles of the training views (histogram matching at a few
levels: the darkest and the brightest hundredth, which marks and metal may hold, are cut).
"""

import numpy as np
import SimpleITK

from dvg_jax.ct.frame import HostImage
from dvg_jax.data.films.template import LEVELS, Greys

MARK_SHARE = 0.015
"""Half the widest stroke of a letter, as a share of the picture's edge."""
MARK_CONTRAST = 0.25
MARK_EXTENT = 0.15
"""The largest letter, as a share of the edge: longer things are bones and edges of clothes."""


def without_marks(image: HostImage, chest: np.ndarray) -> tuple[HostImage, int]:
    """Letters and other small bright strokes outside ``chest`` painted over with what surrounds them; how many.

    Args:
      image: (h, w) in [0, 1].
      chest: (h, w), True where nothing may be changed.
    """
    edge = max(image.shape)
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
    """Histogram matching over the rays that pass the cube whole, then the cube's silhouette.

    Monotone: what was brighter stays brighter, or becomes equal. Returns the view and the curve, (from, to).
    """
    # A share of each step keeps levels apart where a film is saturated.
    found = np.quantile(image[greys.whole], LEVELS) + 1e-6 * LEVELS
    matched = np.interp(image, found, greys.quantiles).astype(np.float32)
    return matched * greys.silhouette, (found.round(4).tolist(), greys.quantiles.round(4).tolist())
