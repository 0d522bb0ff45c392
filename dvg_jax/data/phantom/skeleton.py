"""Paint bones: ribs, spine, sternum, clavicles, scapulae, humeral heads. Each has a dense shell around marrow."""

import jax.numpy as jnp
from jax import Array

from dvg_jax.data.phantom.person import Person
from dvg_jax.data.phantom.solids import (
    Distance,
    Points,
    capsule,
    common,
    ellipse,
    ellipsoid,
    paint,
    path,
    smooth,
    union,
)
from dvg_jax.data.phantom.wall import spine_h

SHELL, MARROW, CARTILAGE, DISC, CORD = 560.0, 165.0, 120.0, 85.0, 30.0
RIB_SPACING = 25.0
LAST_RIB = 11
VERTEBRA = 24.0


def skeleton(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    """Paint all bones over the volume so far.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      cage: signed distance in mm to the rib cage.
      voxel: voxel size in mm.
    """
    hu = _shoulder(hu, person, p, cage, voxel)
    hu = _ribs(hu, person, p, cage, voxel)
    hu = _sternum(hu, person, p, cage, voxel)
    return _spine(hu, person, p, cage, voxel)


def _bone(hu: Array, distance: Distance, person: Person, voxel: float, shell: float = 2.5) -> Array:
    hu = paint(hu, distance, SHELL * person.bone, voxel)
    return paint(hu, distance + shell, MARROW * person.bone, voxel)


def _ribs(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    """Paint all ribs at once, where the height minus the rib's slope is near a multiple of the rib spacing.

    A rib leaves the spine, turns around the side and drops towards the sternum; its front end is cartilage. The last
    two end at the side.
    """
    d, h, w = p
    around = jnp.arctan2(jnp.abs(w), h - 6.0) / jnp.pi  # 0 at the spine, 1 at the sternum
    drop = person.rib_slope * (smooth(around, 0.05, 0.72) - 0.35 * smooth(around, 0.74, 1.0))
    place = (person.top - 6.0 + person.rib_phase * 10.0 - drop - d) / RIB_SPACING
    number = jnp.clip(jnp.round(place), 0, LAST_RIB)
    height = (place - number) * RIB_SPACING
    steep = 1 + 0.35 * smooth(around, 0.2, 0.5)
    rib = ellipse(height / steep, cage + 3.5, 6.0, 3.6)
    end = jnp.where(number > 9.5, 0.55, 0.99)
    # One unit of ``around`` is half of the cage's girth.
    rib = common(rib, (around - end) * 300.0, (0.035 - around) * 300.0)
    front = smooth(around, 0.74, 0.78)
    hu = paint(hu, rib, SHELL * person.bone * (1 - front) + CARTILAGE * front, voxel)
    return paint(hu, rib + 2.0, MARROW * person.bone * (1 - front) + CARTILAGE * front, voxel)


def _spine(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    d, h, w = p
    y = h - spine_h(person, d)
    turn = jnp.round((d + 6.0) / VERTEBRA)
    along = d + 6.0 - turn * VERTEBRA
    size = 1 - 0.0011 * (d + 20.0)
    column = ellipse(y, w, 16.5 * size, 20.0 * size)
    waist = 2.0 * (1 - (along / (VERTEBRA / 2)) ** 2)
    hu = paint(hu, column, DISC, voxel)
    hu = _bone(hu, common(column + waist, jnp.abs(along) - 9.6), person, voxel, 1.6)
    arch = common(ellipse(y - 24.0, w, 13.0, 16.0), jnp.abs(along) - 8.0)
    across = common(jnp.abs(y - 24.0) - 5.0, jnp.abs(w) - 30.0, jnp.abs(along - 2.0) - 5.0)
    skin = cage - person.muscle - 0.6 * person.fat
    spinous = common(skin, jnp.abs(w) - 3.5, jnp.abs(y - 44.0) - 15.0, jnp.abs(along + 0.45 * (y - 30.0)) - 5.5)
    # The arches are spongy: a full shell would make a bright stripe of every frontal view.
    hu = paint(hu, union(arch, across, spinous), 260.0 * person.bone, voxel)
    return paint(hu, ellipse(y - 23.0, w, 8.0, 9.5), CORD, voxel)


def _sternum(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    d, h, w = p
    top = person.top - 52.0
    width = 15.0 + 12.0 * smooth(d, top - 42.0, top - 14.0)
    plate = common(jnp.abs(cage - 2.0) - 5.0, jnp.abs(w) - width, h, d - top, (top - 165.0) - d)
    joint = jnp.abs(d - (top - 44.0)) - 2.0
    hu = _bone(hu, plate, person, voxel, 2.0)
    return paint(hu, common(plate, joint), CARTILAGE, voxel)


def _shoulder(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    d, h, w = p
    top = person.top - 44.0
    front = -person.cage_h * 0.62
    side = jnp.abs(w)
    q = (d, h, side)
    rise = 16.0 + 22.0 * person.arm
    clavicle = path(
        q,
        [
            (top, front, 20.0),
            (top + 8.0, front - 8.0, 58.0),
            (top + rise, front + 26.0, 108.0),
            (top + rise, 8.0, 142.0),
        ],
        6.0,
    )
    hu = _bone(hu, clavicle, person, voxel)
    # The blade lies on the back of the cage, a triangle that narrows downwards; its spine is the ridge across it.
    low, high = top - 118.0, top + 12.0
    share = jnp.clip((d - low) / (high - low), 0, 1)
    blade = common(
        jnp.abs(cage - 14.0) - 3.2,
        side - (82.0 + 48.0 * share),
        (74.0 - 16.0 * share) - side,
        18.0 - h,
        d - high,
        low - d,
    )
    ridge = path(q, [(high - 34.0, 62.0, 66.0), (high - 10.0, 56.0, 112.0), (high + 12.0, 28.0, 146.0)], 6.0)
    humerus = humeral_head(person, p)
    shaft = capsule(q, (high, 18.0, 164.0), (high - 160.0 + 250.0 * person.arm, 14.0, 178.0), 13.0)
    hu = _bone(hu, union(blade, ridge), person, voxel, 1.8)
    return _bone(hu, union(humerus, shaft), person, voxel, 3.0)


def humeral_head(person: Person, p: Points) -> Distance:
    """Return the distance in mm to the heads of both upper arms."""
    d, h, w = p
    return ellipsoid((d, h, jnp.abs(w)), (person.top - 34.0 + 20.0 * person.arm, 20.0, 156.0), (25.0, 23.0, 23.0))
