"""Paint the chest wall, and define the rib cage by which all other organs are placed."""

import jax.numpy as jnp
from jax import Array

from dvg_jax.data.phantom.person import Person
from dvg_jax.data.phantom.solids import Distance, Points, capsule, ellipse, ellipsoid, paint, smooth, union

FAT, MUSCLE, SKIN, GLAND = -100.0, 50.0, 10.0, 15.0


def spine_h(person: Person, d: Array) -> Array:
    """Return the place h in mm of the middle of the vertebral bodies at heights d: it bows with the back."""
    return person.cage_h - 48.0 + person.kyphosis * (1 - ((d + 10.0) / 150.0) ** 2)


def cage_distance(person: Person, p: Points) -> Distance:
    """Return the distance in mm to the rib cage's outer surface: a bell, narrow at the top, flattened at the back."""
    d, h, w = p
    rise = jnp.clip((d + 40) / (person.top + 40), 0, 1)
    bell = jnp.sqrt(jnp.clip(1 - rise**2.6, 0.0, 1.0))
    low = 1 - 0.06 * smooth(-d, 70.0, 160.0)
    half_w = jnp.maximum(person.cage_w * bell * low, 12.0)
    slope = 1 - person.taper * smooth(d, -60.0, 140.0)
    half_h = jnp.maximum(person.cage_h * (0.4 + 0.6 * bell) * low * slope, 12.0)
    centre = 22.0 * smooth(d, -60.0, 140.0)
    # A superellipse of power 2.5 is the flattened oval of an axial slice.
    q = ((jnp.abs(h - centre) / half_h) ** 2.5 + (jnp.abs(w) / half_w) ** 2.5 + 1e-9) ** 0.4
    return (q - 1) * jnp.minimum(half_h, half_w)


def body(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    """Paint all tissue around the rib cage, and soft tissue inside it that organs are painted over.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      cage: signed distance in mm to the rib cage.
      voxel: voxel size in mm.
    """
    d, h, w = p
    fat, muscle = person.fat, person.muscle
    shoulder, rise = smooth(d, 40.0, 130.0), smooth(d, -60.0, 150.0)
    neck = smooth(d, 128.0, 168.0)
    half_w = (person.cage_w + muscle + fat) * (1 + (0.2 * person.arm - 0.04) * shoulder) * (1 - 0.35 * neck)
    half_h = (person.cage_h + muscle + fat) * (1 - (0.08 + 0.9 * person.taper) * rise)
    centre = 2.0 + 22.0 * rise
    q = ((jnp.abs(h - centre) / half_h) ** 2.6 + (jnp.abs(w) / half_w) ** 2.6 + 1e-9) ** (1 / 2.6)
    outline = (q - 1) * half_h
    # Lying on the back, breasts flatten and move to the side.
    lie = 1 - person.has["upright"]
    thick = person.breast * (1 - 0.25 * lie)
    front = -0.62 * person.cage_h - 0.5 * muscle - 0.4 * fat
    breast = union(*(
        ellipsoid(p, (-34.0 - 14.0 * (1 - lie), front - 14.0 * (1 - lie), side * (70.0 + 16.0 * lie)),
                  (58.0, 34.0 + thick, 50.0 + 10.0 * lie)) for side in (-1, 1)
    ))  # fmt: skip
    breast = breast + 200.0 * (1 - person.female)
    arms = capsule((d, h, jnp.abs(w)), (person.top - 30.0, 18.0, 168.0), (-200.0, 10.0, 182.0), 34.0 + 0.5 * fat)
    outline = union(outline, breast, arms + 400.0 * person.arm)
    hu = paint(hu, outline, SKIN, voxel)
    hu = paint(hu, outline + 2.5, FAT, voxel)
    hu = paint(hu, breast + 18.0, GLAND, voxel, 0.7)
    # The muscles of the shoulder girdle thicken the wall towards the top; back muscles run along the spine.
    hu = paint(hu, outline + fat * (1 - 0.35 * shoulder), MUSCLE, voxel, 0.9 * shoulder)
    hu = paint(hu, cage - muscle * 0.8, MUSCLE, voxel)
    for side in (-1, 1):
        back = ellipse(h - spine_h(person, d) - 30.0, w - side * 30.0, 24.0, 30.0)
        hu = paint(hu, jnp.maximum(back, outline + 6.0), MUSCLE, voxel)
        chest_muscle = capsule(p, (40.0, -person.cage_h * 0.82, side * 25.0), (88.0, -22.0, side * 140.0), 13.0)
        hu = paint(hu, jnp.maximum(chest_muscle, outline + 3.0), MUSCLE, voxel)
        armpit = ellipsoid(p, (78.0, 0.0, side * (person.cage_w + 14.0)), (36.0, 26.0, 18.0))
        hu = paint(hu, jnp.maximum(armpit, outline + 4.0), FAT, voxel, 0.8)
    return paint(hu, cage + 4.0, 35.0, voxel)
