"""Paint the contents of the rib cage: lungs, heart, vessels, airways and upper abdomen.

In these functions ``hu`` is (D, H, W) in HU, ``p`` the voxel centres (d, h, w) in mm, distances are signed and in mm,
and ``voxel`` is the voxel size in mm.
"""

import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.data.phantom.person import Person
from dvg_jax.data.phantom.solids import (
    Distance,
    Points,
    Triple,
    capsule,
    common,
    ellipse,
    ellipsoid,
    paint,
    path,
    smooth,
    union,
)
from dvg_jax.data.phantom.wall import FAT, spine_h

BLOOD, LIVER, SPLEEN, STOMACH, GAS = 42.0, 58.0, 48.0, 25.0, -960.0
PLAQUE = 500.0
WALL = 7.0
"""Distance in mm from the rib cage's outer surface to the lung."""

BRANCHES, TWIGS = 7, 4
"""Number of vessels that leave each hilum, and of twigs that leave each vessel."""


def dome_height(person: Person, p: Points) -> Array:
    """Return the height d in mm of the diaphragm: flat between the domes, steep towards the back and the sides."""
    _, h, w = p
    top = person.right_dome + (person.left_dome - person.right_dome) * smooth(w, -25.0, 35.0)
    aside = jnp.maximum(jnp.abs(w) - 48.0, 0.0) / 74.0
    return top - person.depth * (((h + 28.0) / 86.0) ** 2 + aside**2) ** 1.2


def abdomen(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    """Paint fat, liver, spleen and stomach under the diaphragm.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      cage: signed distance in mm to the rib cage.
      voxel: voxel size in mm.
    """
    d, _, _ = p
    under = d - dome_height(person, p) + 2.0
    inside = common(cage + WALL, under)
    dome, left = person.right_dome, person.left_dome
    hu = paint(hu, inside + 6.0, FAT, voxel, 0.75)
    liver = common(ellipsoid(p, (dome - 62.0, -8.0, -52.0), (66.0, 84.0, 98.0)), inside + 1.0)
    hu = paint(hu, liver, LIVER + 0.4 * person.contrast, voxel)
    hu = paint(hu, common(ellipsoid(p, (left - 58.0, 52.0, 88.0), (48.0, 34.0, 28.0)), inside + 2.0), SPLEEN, voxel)
    stomach = common(ellipsoid(p, (left - 54.0, -8.0, 62.0), (50.0, 46.0, 40.0)), inside + 4.0)
    hu = paint(hu, stomach, STOMACH, voxel)
    # Lying on the back, the air in the stomach gathers at its front.
    centre = (left - 8.0 - person.bubble, -26.0 * (1 - person.has["upright"]), 66.0)
    bubble = ellipsoid(p, centre, (person.bubble, 0.8 * person.bubble, person.bubble))
    return paint(hu, common(bubble, stomach + 4.0), GAS, voxel)


def lungs(hu: Array, person: Person, p: Points, grid: Points, cage: Distance, voxel: float) -> tuple[Array, Distance]:
    """Paint both lungs with their vessels.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      grid: voxel centres along the axes of the cube, which texture follows: it costs less there.
      cage: signed distance in mm to the rib cage.
      voxel: voxel size in mm.

    Returns:
      The volume, and the signed distance in mm to the lungs.
    """
    d, h, w = p
    settle = jnp.where(person.has["upright"] > 0, -0.7 * d, h)
    gap = 6.0 + 11.0 * smooth(d, 20.0, 70.0) * smooth(h, -45.0, -15.0) * (1 - smooth(d, 118.0, 140.0))
    lung = common(cage + WALL, gap - jnp.abs(w), dome_height(person, p) - d)
    a, b, c = 6.3 * person.draws("texture", 3)
    x, y, z = grid
    texture = jnp.sin(x / 9.0 + 2 * jnp.sin(z / 13.0) + a) * jnp.sin(y / 8.0 + 2 * jnp.sin(x / 11.0) + b)
    texture = texture * jnp.sin(z / 7.0 + c)
    emphysema, fibrosis = person.has["emphysema"], person.has["fibrosis"]
    air = person.lung_hu - emphysema * 0.6 * (person.lung_hu + 950.0)
    # Scars of the lung are a net below the pleura, denser towards the bases.
    mesh = jnp.sin(x / 4.0 + a) * jnp.sin(y / 3.5 + b) * jnp.sin(z / 4.0 + c)
    net = smooth(cage, -WALL - 32.0, -WALL) * smooth(-d, -70.0, 60.0) * (250.0 + 400.0 * mesh)
    value = air + person.gradient * settle + person.texture * (1 + emphysema) * texture + fibrosis * net
    hu = paint(hu, lung, jnp.clip(value, -980.0, 0.0), voxel)
    return paint(hu, common(_vessels(person, p), lung + 1.0), BLOOD, voxel), lung


def _vessels(person: Person, p: Points) -> Distance:
    """Return the distance to branches from each hilum towards the lung's surface and to their twigs, which taper."""
    keys = jax.random.split(person.key, 4)
    n, side = BRANCHES, jnp.asarray([[-1.0], [1.0]])
    # Directions fan out from straight up to straight down in the coronal plane, forward and backward by chance.
    fan = jnp.linspace(-0.42, 0.40, n) * jnp.pi + 0.15 * jax.random.normal(keys[0], (2, n))
    lean = 0.75 * jax.random.uniform(keys[1], (2, n), minval=-1, maxval=1)
    direction = jnp.stack([jnp.sin(fan), jnp.cos(fan) * jnp.sin(lean), side * jnp.cos(fan) * jnp.cos(lean)], -1)
    start = jnp.asarray([[[2.0, 4.0, -34.0]], [[2.0, 4.0, 34.0]]])
    end = start + (62.0 + 34.0 * jnp.abs(jnp.sin(fan)))[..., None] * direction
    share = jax.random.uniform(keys[2], (2, n, TWIGS, 1), minval=0.3, maxval=0.85)
    twig_start = start[:, :, None] + share * (end - start)[:, :, None]
    twig_end = twig_start + 44.0 * direction[:, :, None] + 26.0 * jax.random.normal(keys[3], (2, n, TWIGS, 3))

    def sticks(start: Array, end: Array, radii: tuple[float, float]) -> Array:
        wide = jnp.broadcast_to(person.vessels * jnp.asarray(radii), (*end.shape[:-1], 2))
        return jnp.concatenate([jnp.broadcast_to(start, end.shape), end, wide], -1).reshape(-1, 8)

    def body(distance: Distance, s: Array) -> tuple[Distance, None]:
        stick = capsule(p, (s[0], s[1], s[2]), (s[3], s[4], s[5]), s[6], s[7])
        return jnp.minimum(distance, stick), None

    tree = jnp.concatenate([sticks(start, end, (4.6, 1.6)), sticks(twig_start, twig_end, (2.6, 1.0))])
    shape = jnp.broadcast_shapes(*(x.shape for x in p))
    return jax.lax.scan(body, jnp.full(shape, 1e3), tree, unroll=7)[0]


def heart_and_vessels(hu: Array, person: Person, p: Points, voxel: float) -> Array:
    """Paint heart with its fat, aorta, caval veins, pulmonary arteries, and the tissue around them.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      voxel: voxel size in mm.
    """
    d, h, w = p
    upper = ellipsoid(p, (person.top - 62.0, 0.0, 0.0), (96.0, 33.0, 25.0))
    hu = paint(hu, upper, FAT, voxel)
    hu = paint(hu, upper + 4.0, 15.0, voxel, 0.85)
    behind = common(ellipse(h - spine_h(person, d) + 26.0, w - 4.0, 30.0, 20.0), d - 40.0)
    hu = paint(hu, behind, 30.0, voxel)
    base = person.dome + 30.0 + person.heart_shift * 0.5
    size = person.heart_size
    centre: Triple = (base, -26.0, 22.0 + 0.5 * person.heart_shift)
    # The long axis points down, forward and to the left.
    axes = ((-0.46, -0.36, 0.81), (0.0, 0.914, 0.406), (0.887, -0.187, 0.42))
    d, h, w = (x - c for x, c in zip(p, centre, strict=True))
    q = tuple(a * d + b * h + c * w for a, b, c in axes)
    heart = ellipsoid(q, (0.0, 0.0, 0.0), (70.0 * size, 47.0 * size, 51.0 * size))  # type: ignore[arg-type]
    atrium = ellipsoid(p, (base + 14.0, -8.0, -24.0), (36.0 * size, 32.0 * size, 30.0 * size))
    heart = union(heart, atrium)
    blood = BLOOD + person.contrast
    hu = paint(hu, heart - 5.0, FAT, voxel, 0.6)
    hu = paint(hu, heart, BLOOD + 0.5 * person.contrast, voxel)
    r = person.aorta
    knob = 52.0
    ascending: list[Triple] = [(base + 20.0, -24.0, -2.0), (knob - 26.0, -26.0, -20.0), (knob - 4.0, -14.0, -12.0)]
    arch: list[Triple] = [ascending[-1], (knob, 4.0, 8.0), (knob - 10.0, 26.0, 20.0)]
    descending: list[Triple] = [arch[-1], (-20.0, 40.0, 22.0), (-100.0, 42.0, 14.0), (-190.0, 42.0, 8.0)]
    aorta = union(path(p, ascending, r + 2.0), path(p, arch, r), path(p, descending, r - 1.0))
    hu = paint(hu, aorta, blood, voxel)
    plaque = common(jnp.abs(aorta) - 1.5, 4.0 - 6.0 * jnp.sin(p[0] / 7.0) * jnp.sin((p[1] + p[2]) / 9.0))
    hu = paint(hu, plaque, PLAQUE, voxel, person.has["calcification"] * min(1.0, 3.0 / voxel))
    cava = path(p, [(person.top - 30.0, -10.0, -22.0), (40.0, -8.0, -28.0), (base + 24.0, -8.0, -28.0)], 9.0)
    lower = path(p, [(base - 10.0, 6.0, -24.0), (-190.0, 14.0, -20.0)], 11.0)
    trunk = path(p, [(base + 30.0, -40.0, 16.0), (22.0, -20.0, 24.0), (16.0, 8.0, 44.0)], 13.0)
    right = path(p, [(18.0, -10.0, 18.0), (10.0, 2.0, -40.0), (-14.0, 8.0, -48.0)], 10.0)
    left = path(p, [(16.0, 8.0, 42.0), (-12.0, 16.0, 46.0)], 9.0)
    return paint(hu, union(cava, lower, trunk, right, left), blood, voxel)


def airways(hu: Array, person: Person, p: Points, voxel: float) -> Array:
    """Paint trachea, main bronchi and their first branches, as air in a wall.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      voxel: voxel size in mm.
    """
    carina: Triple = (28.0, 12.0, -2.0)
    trachea = capsule(p, (200.0, -8.0, 0.0), carina, 8.5)
    right, left = (2.0, 14.0, -36.0), (0.0, 16.0, 40.0)
    main = union(capsule(p, carina, right, 6.5, 5.0), capsule(p, carina, left, 6.0, 4.5))
    ends: list[tuple[Triple, Triple]] = [
        (right, (24.0, 10.0, -58.0)),
        (right, (-34.0, 22.0, -52.0)),
        (left, (22.0, 10.0, 60.0)),
        (left, (-34.0, 24.0, 56.0)),
    ]
    branches = union(*(capsule(p, a, b, 4.0, 2.0) for a, b in ends))
    tree = union(trachea, main, branches)
    hu = paint(hu, tree - 2.0, 20.0, voxel)
    return paint(hu, tree, GAS, voxel)
