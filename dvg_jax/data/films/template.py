"""What the model's training views look like: where the thorax lies in them, and which greys they hold."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import numpy as np
import SimpleITK
from jaxtyping import Float

from dvg_jax.ct.frame import FIELD_MM, HostImage
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.films.search import Layer, Template, blurred
from dvg_jax.data.scans.body import body_mask
from dvg_jax.data.sources import PhantomSource
from dvg_jax.xray import ConeBeamGeometry, forward_project_views, view_pose

TEMPLATE_SIZE = 64
"""At 32 the wall of the chest is too coarse to be seen: the scores of real frontal films fall from 0.6 to 0.45."""
TEMPLATE_CASES = 8
RIND_MM = 15.0
"""Taken off the body before its air is called lung: at the skin, voxels are half air."""
LUNG_HU = -500.0
LUNG_SHARE = 0.15
"""Of the largest mean thickness, from which a pixel belongs to the lungs."""
LEVELS = np.array([0.01, 0.25, 0.5, 0.75, 0.99])
"""Quantiles that are matched. More of them would also take away how one patient's greys differ from the mean's."""
WHOLE = 0.97
"""Share of the longest path through the cube from which a ray counts as passing it whole."""


@dataclass(frozen=True)
class Greys:
    """Which greys the model's views hold at one angle.

    Attributes:
      silhouette: (h, w), path of each ray through the model's cube, 1 the longest; a training view shows nothing else.
      quantiles: at ``LEVELS``, over rays that pass the cube whole, the mean of the cases' own.
      cases: how many views that is.
      source: where their CTs are from.
    """

    silhouette: HostImage
    quantiles: Float[np.ndarray, "levels"]
    cases: int
    source: str

    @property
    def whole(self) -> np.ndarray:
        """(h, w), the rays whose greys are compared."""
        return self.silhouette >= WHOLE


def field_share(geometry: ConeBeamGeometry) -> tuple[float, float]:
    """Edges of what the detector sees at the volume's centre, (rows, columns), as shares of the volume's D and W."""
    magnification = geometry.source_detector_mm / geometry.source_isocentre_mm
    rows, columns = (n * mm / magnification for n, mm in zip(geometry.detector_shape, geometry.pixel_mm, strict=True))
    return rows / geometry.extent_mm[0], columns / geometry.extent_mm[2]


@cache
def thorax_template(angle: float) -> tuple[Template, float]:
    """What framing looks for at ``angle``, and the edge of its square as a share of the cube at the centre.

    From phantoms, whose lungs lie in the cube as ``prepare_volume`` places those of patients. Two layers: the mean view
    over the lungs and a wide margin, which tells a chest from what is none, and the mean thickness of lung over a
    narrow one, which is precise. They are correlated with films, where lungs are dark: the second is negated.
    """
    geometry = ConeBeamGeometry.covering(TEMPLATE_SIZE)
    project = jax.jit(partial(forward_project_views, poses=np.stack([view_pose(angle)]), geometry=geometry))
    view, lungs = (np.asarray(project(volume))[0] for volume in _mean_chest())
    view, lungs = view / view.max(), lungs / lungs.max()
    area = _filled((lungs > LUNG_SHARE).astype(np.float32))
    # From the side lungs, heart and shoulders overlap, and thickness of lung says less about what is dark.
    whole = 0.35 + 0.5 * float(np.sin(np.deg2rad(angle))) ** 2
    layers = tuple(
        Layer(picture, _filled(np.clip(3 * blurred(area, margin * TEMPLATE_SIZE), 0, 1)), share)
        for picture, margin, share in ((view, 1 / 16, whole), (-lungs, 1 / 32, 1 - whole))
    )
    return layers, field_share(geometry)[0]


@cache
def _mean_chest() -> tuple[np.ndarray, np.ndarray]:
    """Mean intensity and mean lungs of phantoms, (D, H, W): projecting is linear, so the mean can be taken first."""
    source = PhantomSource(TEMPLATE_CASES, TEMPLATE_SIZE)
    volumes = [source[i]["ct"][..., 0] for i in range(TEMPLATE_CASES)]
    return np.mean(volumes, axis=0), np.mean([_lungs(volume) for volume in volumes], axis=0)


def _lungs(volume: np.ndarray) -> np.ndarray:
    """Where a cube's body holds air: ``(D, H, W)``, 0 or 1."""
    spacing = FIELD_MM / volume.shape[0]
    hu = np.asarray(intensity_to_hu(volume))
    body = SimpleITK.GetImageFromArray(body_mask(hu, (spacing,) * 3).astype(np.uint8))
    inside = SimpleITK.GetArrayFromImage(SimpleITK.BinaryErode(body, (max(1, round(RIND_MM / spacing)),) * 3))
    return ((inside > 0) & (hu < LUNG_HU)).astype(np.float32)


def _filled(weight: HostImage) -> HostImage:
    """Each row set to 1 between its first and last pixel above a third: the mediastinum belongs to the thorax."""
    above = weight > 1 / 3
    between = np.maximum.accumulate(above, axis=1) & np.maximum.accumulate(above[:, ::-1], axis=1)[:, ::-1]
    return np.where(between, np.float32(1), weight)
