"""Paint what surgeons leave in a chest: pacemaker, wires of the sternum, rods of the spine, a shoulder's prosthesis."""

import jax.numpy as jnp
from jax import Array

from dvg_jax.data.phantom.person import Person
from dvg_jax.data.phantom.skeleton import humeral_head
from dvg_jax.data.phantom.solids import Distance, Points, Triple, common, ellipse, ellipsoid, paint, path
from dvg_jax.data.phantom.wall import spine_h

METAL = 3000.0
WIRE_STEP = 24.0


def devices(hu: Array, person: Person, p: Points, cage: Distance, voxel: float) -> Array:
    """Paint all devices over the volume so far.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      cage: signed distance in mm to the rib cage.
      voxel: voxel size in mm.
    """
    d, h, w = p
    side = jnp.where(person.draws("pacemaker", 1)[0] < 0.15, -1.0, 1.0)
    front = -person.cage_h * 0.62
    pocket: Triple = (person.top - 68.0, front, 78.0 * side)
    box = common(ellipsoid((d, cage, w), (pocket[0], 14.0, pocket[2]), (24.0, 6.0, 21.0)), h)
    vein: Triple = (person.top - 50.0, -4.0, 30.0 * side)
    lead = path(p, [pocket, vein, (40.0, -8.0, -26.0), (person.dome + 22.0, -40.0, 10.0)], 1.2)
    hu = paint(hu, box, METAL, voxel, person.has["pacemaker"])
    hu = paint(hu, lead, METAL, voxel, person.has["pacemaker"] * _thin(1.2, voxel))

    top = person.top - 60.0
    place = (top - d) / WIRE_STEP
    along = (place - jnp.clip(jnp.round(place), 0, 5)) * WIRE_STEP
    wire = common(ellipse(along, cage - 9.0, 1.5, 1.5), jnp.abs(w) - 12.0, h)
    hu = paint(hu, wire, METAL, voxel, person.has["wires"] * _thin(1.0, voxel))

    u = person.draws("rods", 2)
    low = -150.0 + 120.0 * u[0]
    rod = ellipse(h - spine_h(person, d) - 30.0, jnp.abs(w) - 16.0, 3.0, 3.0)
    rod = common(rod, low - d, d - low - 80.0 - 120.0 * u[1])
    hu = paint(hu, rod, METAL, voxel, person.has["rods"] * _thin(3.0, voxel))
    joint = common(humeral_head(person, p), -person.side("prosthesis") * w)
    return paint(hu, joint + 2.0, METAL, voxel, person.has["prosthesis"])


def _thin(radius: float, voxel: float) -> float:
    """Return the share of a voxel that a wire covers: edges as wide as a voxel would make it as thick as one."""
    return min(1.0, (2 * radius / voxel) ** 2)
