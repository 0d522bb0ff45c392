"""Make films as rooms make them: out of place, under an unknown curve, with noise, letters and collimation.

    CT --pose of each film, patient goes on beyond the cube--> line integrals --curve, noise, marks--> film

Everything is drawn from a key. Training draws from minus to plus a bound; a stress test takes the bound itself, with
a drawn sign.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.keys import named
from dvg_jax.shapes import Image, Key, Views, Volumes
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.placement import Placement, film_of_patient, nominal_silhouette, resampled
from dvg_jax.xray.views import minmax

LETTER = (0.03, 0.08)
"""A letter's edges lie between these shares of the film's."""

MARGIN = 0.15
"""Letters begin within this share of the film's edge from a side."""


class Faults(NamedTuple):
    """Hold what was drawn for films; every array is (B, V).

    Attributes:
      placement: of each film. Of a case the first film has the nominal height, and the mean size is the nominal one:
        what films share is the patient's place and size.
      distance: logarithm of how much farther the source is; the patient's size on the film stays.
      gamma: logarithm of the power in the film's curve.
      bend: share of an S in the film's curve.
    """

    placement: Placement
    distance: Array
    gamma: Array
    bend: Array


@dataclass(frozen=True)
class Imperfections:
    """Hold the fields of ``config.films`` and their defaults: bounds of what is drawn for each film; 0 is none.

    Attributes:
      height_mm: of one film against the other.
      scale: of the patient's size on one film against the other, as a share.
      rotation_deg: about the beam, and as much about the film's rows.
      distance: of the source, as a share.
      curve: logarithm of a power that line integrals are raised to; half of it bounds the share of an S.
      noise: standard deviation, of a film in [0, 1].
      letters: share of films with a bright mark near a side.
      collimation: width of a dark border on each side, as a share of the film's edge.
    """

    height_mm: float = 0.0
    scale: float = 0.0
    rotation_deg: float = 0.0
    distance: float = 0.0
    curve: float = 0.0
    noise: float = 0.0
    letters: float = 0.0
    collimation: float = 0.0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def draw(self, key: Key, cases: int, views: int, whole: bool = False) -> Faults:
        """Draw the faults of B x V films.

        Args:
          key: decides them.
          cases: B.
          views: V.
          whole: take each bound, with a drawn sign, instead of what is evenly drawn from minus to plus the bound.
        """

        def even(name: str, bound: float) -> Float[Array, "B V"]:
            share = jax.random.uniform(named(key, name), (cases, views), minval=-1, maxval=1)
            return bound * (jnp.sign(share) if whole else share)

        height, scale = even("height", self.height_mm), even("scale", self.scale)
        placement = Placement(
            height - height[:, :1],
            scale - scale.mean(axis=1, keepdims=True),
            even("roll", self.rotation_deg),
            even("tilt", self.rotation_deg),
        )
        bend = jnp.abs(even("bend", self.curve / 2))
        return Faults(placement, even("distance", self.distance), even("gamma", self.curve), bend)

    def films(self, ct: Volumes, angles: Float[Array, "B V"], key: Key, geometry: ConeBeamGeometry) -> Views:
        """Return films of each CT with drawn faults, normalised to [0, 1] as ideal ones are.

        Args:
          ct: the patients, (B, D, H, W, 1), [0, 1], the foot at index 0 of D.
          angles: of the nominal views, in degrees.
          key: decides faults, noise and marks.
          geometry: of source, volume and detector.
        """
        return self.films_of(ct, angles, self.draw(key, len(angles), angles.shape[1]), key, geometry)

    @partial(jax.jit, static_argnums=(0, 5))
    def films_of(
        self, ct: Volumes, angles: Float[Array, "B V"], faults: Faults, key: Key, geometry: ConeBeamGeometry
    ) -> Views:
        """Return films with given faults: see :meth:`films`.

        Args:
          ct, angles, geometry: as of :meth:`films`.
          faults: of each film.
          key: decides noise and marks.
        """

        def film(volume: Array, angle: Array, faults: Faults) -> Image:
            place, away = faults.placement, faults.distance
            lines = film_of_patient(volume, place._replace(scale=place.scale - away).pose(angle, geometry), geometry)
            if self.distance:
                lines = resampled(lines, Placement.nominal()._replace(scale=-away), angle, geometry)
            return curved(lines / jnp.max(lines), faults.gamma, faults.bend)

        images = jax.vmap(jax.vmap(film, (None, 0, 0)))(ct[..., 0], angles, faults)
        images += self.noise * jax.random.normal(named(key, "noise"), images.shape)
        marked = jax.vmap(jax.vmap(self._marked))(images, jax.random.split(named(key, "marks"), angles.shape))
        dimmed = jax.vmap(jax.vmap(lambda angle: nominal_silhouette(angle, geometry)))(angles)
        return minmax(jnp.maximum(marked, 0) * dimmed)[..., None]

    def _marked(self, film: Image, key: Key) -> Image:
        """Add a letter and the borders that a collimator leaves, as they are drawn."""
        rows, columns = ((jnp.arange(n) + 0.5) / n for n in film.shape)
        for along in (rows[:, None], columns):
            low, high = self.collimation * jax.random.uniform(named(key, f"border{along.ndim}"), (2,))
            film = jnp.where((along < low) | (along > 1 - high), 0, film)
        corner = jax.random.uniform(named(key, "corner"), (2,), maxval=MARGIN)
        edge = jax.random.uniform(named(key, "edge"), (2,), minval=LETTER[0], maxval=LETTER[1])
        start = jnp.where(jax.random.bernoulli(named(key, "side"), shape=(2,)), 1 - corner - edge, corner)
        inside = [(x >= a) & (x < a + b) for x, a, b in zip((rows[:, None], columns), start, edge, strict=True)]
        drawn = jax.random.bernoulli(named(key, "letter"), self.letters)
        return jnp.where(inside[0] & inside[1] & drawn, 1, film)


def curved(film: Image, gamma: Array, bend: Array) -> Image:
    """Apply a monotone film curve to values in [0, 1]: a power, mixed with an S."""
    return (1 - bend) * film ** jnp.exp(gamma) + bend * jnp.sin(jnp.pi / 2 * film) ** 2
