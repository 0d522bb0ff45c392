"""Compute signed distances in mm of simple solids, negative inside, and paint solids into a volume.

Points are a triple of arrays (d, h, w) that broadcast against each other; centres and radii are triples of scalars.
"""

from itertools import pairwise

import jax.numpy as jnp
from jax import Array

Points = tuple[Array, Array, Array]
Scalar = Array | float
Triple = tuple[Scalar, Scalar, Scalar]
Distance = Array


def ellipsoid(p: Points, centre: Triple, radii: Triple) -> Distance:
    """Return the distance to an ellipsoid, close to exact near the surface, where edges are painted.

    Args:
      p: points (d, h, w) in mm.
      centre: centre in mm.
      radii: radii in mm along d, h, w.
    """
    q = [(x - c) / r for x, c, r in zip(p, centre, radii, strict=True)]
    return _scaled(q, radii)


def ellipse(x: Array, y: Array, rx: Scalar, ry: Scalar) -> Distance:
    """Return the distance to an ellipse around the origin of a plane, which is a cylinder in space.

    Args:
      x, y: coordinates in the plane in mm.
      rx, ry: radii in mm.
    """
    return _scaled([x / rx, y / ry], (rx, ry))


def _scaled(q: list[Array], radii: tuple[Scalar, ...]) -> Distance:
    k0 = jnp.sqrt(sum(x**2 for x in q) + 1e-12)
    k1 = jnp.sqrt(sum((x / r) ** 2 for x, r in zip(q, radii, strict=True)) + 1e-12)
    return k0 * (k0 - 1) / k1


def capsule(p: Points, start: Triple, end: Triple, radius: Scalar, end_radius: Scalar | None = None) -> Distance:
    """Return the distance to a round stick.

    Args:
      p: points (d, h, w) in mm.
      start, end: ends of the stick's axis in mm.
      radius: radius in mm, at ``start`` if the stick tapers.
      end_radius: radius in mm at ``end``; None for ``radius``.
    """
    end_radius = radius if end_radius is None else end_radius
    along = [e - s for s, e in zip(start, end, strict=True)]
    offset = [x - s for x, s in zip(p, start, strict=True)]
    t = sum(o * a for o, a in zip(offset, along, strict=True)) / (sum(a * a for a in along) + 1e-6)
    t = jnp.clip(t, 0, 1)
    gap = jnp.sqrt(sum((o - t * a) ** 2 for o, a in zip(offset, along, strict=True)) + 1e-12)
    return gap - (radius + t * (end_radius - radius))


def path(p: Points, points: list[Triple], radius: Scalar) -> Distance:
    """Return the distance to capsules joined end to end.

    Args:
      p: points (d, h, w) in mm.
      points: ends of the capsules in mm, two or more.
      radius: radius in mm.
    """
    parts = [capsule(p, a, b, radius) for a, b in pairwise(points)]
    return union(*parts)


def union(*parts: Distance) -> Distance:
    """Return the distance to the union of solids."""
    out = parts[0]
    for part in parts[1:]:
        out = jnp.minimum(out, part)
    return out


def common(*parts: Distance) -> Distance:
    """Return the distance to the intersection of solids."""
    out = parts[0]
    for part in parts[1:]:
        out = jnp.maximum(out, part)
    return out


def paint(hu: Array, distance: Distance, value: Array | float, voxel: float, strength: Scalar = 1.0) -> Array:
    """Set HU to ``value`` inside a solid; the edge is one voxel wide and weighted by the share that is inside.

    Args:
      hu: the volume so far, (D, H, W) HU.
      distance: signed distance in mm to the solid, (D, H, W).
      value: HU inside, one or for each voxel.
      voxel: voxel size in mm.
      strength: share of the new value, 0 to 1.
    """
    inside = jnp.clip(0.5 - distance / voxel, 0, 1) * strength
    return hu + inside * (value - hu)


def smooth(x: Array, low: Scalar, high: Scalar) -> Array:
    """Return the smoothstep of ``x``: 0 below ``low``, 1 above ``high``, a smooth rise between.

    Args:
      x: values of any shape.
      low: upper end of the 0s.
      high: lower end of the 1s.
    """
    t = jnp.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
