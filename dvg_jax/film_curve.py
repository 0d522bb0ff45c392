"""Find the curve between a film's greys and the line integrals of a CT, and undo it.

    X-rays of a model's CT, film --cubic--> line integral of each grey --cautious--> curve that is undone

A film's curve is no part of the patient, so the fit and the refiner do not look at what any cubic of a film explains
(:mod:`dvg_jax.consistency`). The encoders see the film itself, and a film that is linear again is more like those that
they were trained on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.consistency import DEGREE
from dvg_jax.shapes import Image, Views

ENDS = (0.02, 0.98)
"""A film's curve is stated between these quantiles: beyond them a cubic is a guess."""

KNOTS, END = 21, 3
"""It is stated at so many greys, evenly from the first to the last; how it ends is seen over so many of their steps."""

TRUST = 2 / 3
"""An estimated curve's bend, which is its difference from a straight line, counts for so much when it is undone.

On 12 unseen phantoms, with films as of ``config.evaluate.stress=all:1``, 1/2 gains 0.27 dB and loses 0.26 dB at worst,
2/3 0.33 and 0.40, and 1 0.37 and 0.70.
"""

TINY = 1e-12


class FilmCurve(NamedTuple):
    """Hold the curve of each film.

    Attributes:
      greys: of the film, rising, (B, V, n).
      lines: the line integrals that they stand for, (B, V, n): in value * mm from :func:`film_curves`, on the scale of
        the greys from :func:`cautious`.
    """

    greys: Float[Array, "B V n"]
    lines: Float[Array, "B V n"]

    @classmethod
    def straight(cls, *shape: int) -> "FilmCurve":
        """Return the curves of films that are linear already, for so many of them."""
        greys = jnp.broadcast_to(jnp.linspace(0, 1, KNOTS), (*shape, KNOTS))
        return cls(greys, greys)

    @property
    def rise(self) -> Float[Array, "B V n"]:
        """Return the curve as a share of its rise from the first grey to the last; a curve without any is 0."""
        first, last = self.lines[..., :1], self.lines[..., -1:]
        return (self.lines - first) / jnp.where(last == first, 1, last - first)


def film_curves(projected: Views, films: Views, whole: Views, knots: int = KNOTS) -> FilmCurve:
    """Return each film's curve: the cubic of its greys that explains the line integrals best.

    Args:
      projected: line integrals of the CT, (B, V, h, w, 1).
      films: (B, V, h, w, 1).
      whole: 1 for rays that count and 0 for the others, (B, V, h, w, 1).
      knots: greys at which the curve is stated, n.
    """

    def curve(projected: Array, film: Array, whole: Array) -> tuple[Array, Array]:
        film, weight = film.reshape(-1), whole.reshape(-1)
        low, high = jnp.nanquantile(jnp.where(weight > 0, film, jnp.nan), jnp.array(ENDS))
        greys = low + (high - low) * jnp.linspace(0, 1, knots)
        powers = [jnp.stack([x**n for n in range(DEGREE + 1)], axis=-1) for x in (film, greys)]
        cubic, *_ = jnp.linalg.lstsq(powers[0] * weight[:, None], projected.reshape(-1) * weight)
        return greys, powers[1] @ cubic

    return FilmCurve(*jax.vmap(jax.vmap(curve))(projected, films, whole))


def cautious(curve: FilmCurve) -> FilmCurve:
    """Return curves that never fall and are nearer to a straight line, which becomes that of the greys themselves.

    Estimated curves are known to a few per cent only.
    """
    greys = curve.greys
    rising = jax.lax.cummax(curve.lines, axis=curve.lines.ndim - 1)
    own = greys - jnp.mean(greys, axis=-1, keepdims=True)
    slope = jnp.sum(own * rising, axis=-1, keepdims=True) / jnp.maximum(jnp.sum(own**2, -1, keepdims=True), TINY)
    return FilmCurve(greys, TRUST * rising / jnp.maximum(slope, TINY) + (1 - TRUST) * greys)


def linearised(film: Image, greys: Float[Array, "n"], lines: Float[Array, "n"]) -> Image:
    """Return a film whose greys rise evenly with the line integral, black where it was black.

    Beyond its ends the curve goes on as steeply as it ends.

    Args:
      film: (h, w), 0 where no ray is absorbed.
      greys: of the curve, rising.
      lines: line integrals of these greys, not falling, on any scale and with any offset.
    """

    def steepness(one: int, other: int) -> Array:
        return (lines[other] - lines[one]) / jnp.maximum(greys[other] - greys[one], TINY)

    def applied(film: Array) -> Array:
        before, after = jnp.minimum(film - greys[0], 0), jnp.maximum(film - greys[-1], 0)
        return jnp.interp(film, greys, lines) + steepness(0, END) * before + steepness(-1 - END, -1) * after

    return jnp.maximum(applied(film) - applied(jnp.zeros(())), 0)
