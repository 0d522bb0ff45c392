"""Measure the training views of a model: the place of the thorax in them, and their grey levels."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np
from jaxtyping import Float

from dvg_jax.ct.frame import HostImage
from dvg_jax.data.films import mean_chest
from dvg_jax.data.films.search import Layer, Template, blurred
from dvg_jax.xray import ConeBeamGeometry, forward_project_views, view_pose
from dvg_jax.xray.placement import WHOLE

LUNG_SHARE = 0.15
"""Least thickness of a pixel of the lungs, as a share of the largest mean thickness."""
LEVELS = np.array([0.01, 0.5, 0.99])
"""Quantiles that are matched. More of them also remove how one patient's greys differ from the mean: with two more,
results from films of real scans are 0.3 dB worse, under no curve as under a strong one.
"""


@dataclass(frozen=True)
class Greys:
    """Describe the grey levels of a model's training views at one angle.

    Attributes:
      silhouette: (h, w), path of each ray through the model's cube, 1 the longest; a training view shows nothing else.
      quantiles: mean over the cases of the quantiles at ``LEVELS``, over rays that cross the whole cube.
      cases: number of views.
      source: name of the source of their CTs.
    """

    silhouette: HostImage
    quantiles: Float[np.ndarray, "levels"]
    cases: int
    source: str

    @property
    def whole(self) -> np.ndarray:
        """Return a mask (h, w) of the rays whose greys are compared."""
        return self.silhouette >= WHOLE


def field_share(geometry: ConeBeamGeometry) -> tuple[float, float]:
    """Return the detector's field at the volume's centre, (rows, columns), as shares of the volume's D and W."""
    magnification = geometry.source_detector_mm / geometry.source_isocentre_mm
    rows, columns = (n * mm / magnification for n, mm in zip(geometry.detector_shape, geometry.pixel_mm, strict=True))
    return rows / geometry.extent_mm[0], columns / geometry.extent_mm[2]


@cache
def thorax_template(angle: float) -> tuple[Template, float]:
    """Return the template of a view, and the edge of its square as a share of the cube at the centre.

    Templates are made from plain phantoms, whose lungs lie in the cube as ``prepare_volume`` places those of patients.
    There are two layers. The mean view over the lungs and a wide margin distinguishes a chest from other pictures. The
    mean thickness of lung over a narrow margin is precise; it is negated, since lungs are dark in films. Projection is
    linear, so both are views of a mean.
    """
    geometry = ConeBeamGeometry.covering(mean_chest.SIZE)
    project = jax.jit(partial(forward_project_views, poses=np.stack([view_pose(angle)]), geometry=geometry))
    view, lungs = (np.asarray(project(volume))[0] for volume in mean_chest.stored_mean())
    view, lungs = view / view.max(), lungs / lungs.max()
    area = _filled((lungs > LUNG_SHARE).astype(np.float32))
    # From the side lungs, heart and shoulders overlap, and thickness of lung says less about what is dark.
    whole = 0.35 + 0.5 * float(np.sin(np.deg2rad(angle))) ** 2
    layers = tuple(
        Layer(picture, _filled(np.clip(3 * blurred(area, margin * mean_chest.SIZE), 0, 1)), share)
        for picture, margin, share in ((view, 1 / 16, whole), (-lungs, 1 / 32, 1 - whole))
    )
    return layers, field_share(geometry)[0]


def _filled(weight: HostImage) -> HostImage:
    """Set each row to 1 between its first and last pixel above a third, since the mediastinum belongs to the thorax."""
    above = weight > 1 / 3
    between = np.maximum.accumulate(above, axis=1) & np.maximum.accumulate(above[:, ::-1], axis=1)[:, ::-1]
    return np.where(between, np.float32(1), weight)
