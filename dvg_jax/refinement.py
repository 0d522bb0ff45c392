"""Correct CTs by networks that see where the CTs disagree with their films.

    CT, films --features--> Refiner --> change --> CT    a round for each network

A voxel's features are the CT, what every film shows on the voxel's ray, ten times by how much the CT's line integral
misses every film there, and whether any ray crosses it. Films may be on any scale, see
:func:`dvg_jax.consistency.film_residual`.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from dvg_jax.consistency import film_residual, whole_rays
from dvg_jax.networks.refiner import Refiner
from dvg_jax.shapes import Features, Variables, Views, Volumes
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.views import Angles, Projector, ViewSets, lift_views, project_views

GAIN = 10.0
"""Residuals are small and are multiplied by this."""


@dataclass(frozen=True)
class Refinement:
    """Combine the network with the geometry of its films.

    Attributes:
      rounds: networks that are applied one after another, each to the result of the one before.
      mean: one feature for all films, the mean of their back projections, so that a model takes any number of films;
        else one for each film.
    """

    projector: Projector
    geometry: ConeBeamGeometry
    refiner: Refiner
    rounds: int
    mean: bool

    def features(self, ct: Volumes, films: Views, angles: Angles) -> Features:
        """Return what the network sees, (B, D, H, W, C).

        Args:
          ct: (B, D, H, W, 1), [0, 1].
          films: (B, V, h, w, 1), [0, 1].
          angles: of the films in degrees.
        """
        whole = whole_rays(self.projector, self.geometry, angles, len(ct))
        missing = film_residual(project_views(self.projector, self.geometry, ct, angles), films, whole)
        missing *= GAIN / self.geometry.extent_mm[1]
        crossed = self._lift(jnp.ones_like(films), angles).max(-1, keepdims=True) > 0
        parts = [ct, self._lift(films, angles), self._lift(missing, angles)]
        return jnp.concatenate([*parts, crossed.astype(ct.dtype)], -1)

    def __call__(self, params: Variables, ct: Volumes, films: Views, angles: Angles) -> list[Volumes]:
        """Return the CTs after each round, not clipped.

        Args:
          params: of the networks, ``round_<i>``.
          ct: (B, D, H, W, 1), [0, 1].
          films: (B, V, h, w, 1), [0, 1].
          angles: of the films in degrees: of all cases, or a set for each.
        """
        known, sets = ((), angles) if isinstance(angles, ViewSets) else (angles, None)
        return _rounds(self, known, params, ct, films, sets)

    def _lift(self, images: Views, angles: Angles) -> Features:
        if self.mean or isinstance(angles, ViewSets):
            return lift_views(self.projector, self.geometry, images, angles, mean=True)
        lifts = (
            lift_views(self.projector, self.geometry, images[:, v : v + 1], (angle,)) for v, angle in enumerate(angles)
        )
        return jnp.concatenate(list(lifts), -1)


@partial(jax.jit, static_argnums=(0, 1))
def _rounds(
    refinement: Refinement,
    known: tuple[float, ...],
    params: Variables,
    ct: Volumes,
    films: Views,
    sets: ViewSets | None,
) -> list[Volumes]:
    cts = []
    for i in range(refinement.rounds):
        x = refinement.features(ct, films, known if sets is None else sets)
        ct = ct + refinement.refiner.apply({"params": params[f"round_{i}"]}, x)
        cts.append(ct)
    return cts
