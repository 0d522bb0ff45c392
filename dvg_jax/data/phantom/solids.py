"""Signed distances of simple solids, in mm: negative inside. What the phantom is drawn with.

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
    """Close to exact near the surface, which is where edges are drawn."""
    q = [(x - c) / r for x, c, r in zip(p, centre, radii, strict=True)]
    return _scaled(q, radii)


def ellipse(x: Array, y: Array, rx: Scalar, ry: Scalar) -> Distance:
    """In a plane; a cylinder in space."""
    return _scaled([x / rx, y / ry], (rx, ry))


def _scaled(q: list[Array], radii: tuple[Scalar, ...]) -> Distance:
    k0 = jnp.sqrt(sum(x**2 for x in q) + 1e-12)
    k1 = jnp.sqrt(sum((x / r) ** 2 for x, r in zip(q, radii, strict=True)) + 1e-12)
    return k0 * (k0 - 1) / k1


def capsule(p: Points, start: Triple, end: Triple, radius: Scalar, end_radius: Scalar | None = None) -> Distance:
    """A round stick from ``start`` to ``end``, tapering to ``end_radius`` where given."""
    end_radius = radius if end_radius is None else end_radius
    along = [e - s for s, e in zip(start, end, strict=True)]
    offset = [x - s for x, s in zip(p, start, strict=True)]
    t = sum(o * a for o, a in zip(offset, along, strict=True)) / (sum(a * a for a in along) + 1e-6)
    t = jnp.clip(t, 0, 1)
    gap = jnp.sqrt(sum((o - t * a) ** 2 for o, a in zip(offset, along, strict=True)) + 1e-12)
    return gap - (radius + t * (end_radius - radius))


def path(p: Points, points: list[Triple], radius: Scalar) -> Distance:
    """Capsules joined end to end."""
    parts = [capsule(p, a, b, radius) for a, b in pairwise(points)]
    return union(*parts)


def union(*parts: Distance) -> Distance:
    """Inside any."""
    out = parts[0]
    for part in parts[1:]:
        out = jnp.minimum(out, part)
    return out


def common(*parts: Distance) -> Distance:
    """Inside all."""
    out = parts[0]
    for part in parts[1:]:
        out = jnp.maximum(out, part)
    return out


def paint(hu: Array, distance: Distance, value: Array | float, voxel: float, strength: Scalar = 1.0) -> Array:
    """Set HU to ``value`` inside; the edge is one voxel wide, the share of a voxel that is inside."""
    inside = jnp.clip(0.5 - distance / voxel, 0, 1) * strength
    return hu + inside * (value - hu)


def smooth(x: Array, low: Scalar, high: Scalar) -> Array:
    """0 below ``low``, 1 above ``high``, and a smooth rise between."""
    t = jnp.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
