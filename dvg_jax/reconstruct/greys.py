"""Measure the grey levels of a model's training views, which films are matched to."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dvg_jax.data.films.template import LEVELS, Greys
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.xray.placement import WHOLE, nominal_silhouette

CASES = 16
"""Grey levels are the mean of this many cases, or of all if there are fewer."""


def training_greys(dvg: DVG, source: Source, name: str, angles: Sequence[float]) -> dict[float, Greys]:
    """Return the grey levels of the views that ``dvg`` renders of the first cases of ``source``, by angle in degrees.

    Args:
      dvg: the method, whose geometry and projector render the views.
      source: the CTs that the model was trained on.
      name: what messages call ``source``.
      angles: in degrees; repeated ones count once.
    """
    angles = tuple(dict.fromkeys(angles))
    count = min(CASES, len(source))
    views = [np.asarray(dvg.render(source[i]["ct"][None], angles))[0, ..., 0] for i in range(count)]
    greys = {}
    for place, angle in enumerate(angles):
        silhouette = np.asarray(nominal_silhouette(jnp.float32(angle), dvg.geometry))  # what alignment divides by
        inside = [np.quantile(case[place][silhouette >= WHOLE], LEVELS) for case in views]
        greys[angle] = Greys(silhouette, np.mean(inside, axis=0), count, name)
    return greys
