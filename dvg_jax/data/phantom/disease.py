"""Paint disease inside the rib cage: lesions of the lungs, fluid and air beside them, a hernia of the stomach.

In these functions ``hu`` is (D, H, W) in HU, ``p`` the voxel centres (d, h, w) in mm, distances are signed and in mm,
and ``voxel`` is the voxel size in mm.
"""

import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.data.phantom.organs import WALL
from dvg_jax.data.phantom.person import Person, Sizes, skewed_size
from dvg_jax.data.phantom.solids import Distance, Points, common, ellipsoid, paint, smooth

FLUID, AIR, SOLID, CALCIUM, GLASS, BULLA, WALL_HU = 8.0, -1000.0, 35.0, 500.0, -560.0, -985.0, 25.0
NODULES, PATCHES, BULLAE = 4, 3, 2


def lesions(hu: Array, person: Person, p: Points, grid: Points, lung: Distance, voxel: float) -> Array:
    """Paint nodules, a mass, consolidations, patches of ground glass and bullae, each clipped to the lungs.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      grid: voxel centres along the axes of the cube, which roughness follows.
      lung: signed distance in mm to the lungs.
      voxel: voxel size in mm.
    """
    x, y, z = grid
    rough = jnp.sin(x / 6.0) * jnp.sin(y / 5.0) * jnp.sin(z / 5.5)

    def body(hu: Array, s: Array) -> tuple[Array, None]:
        q = jnp.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip(p, s[:3], s[3:6], strict=True)))
        blob = (q - 1) * jnp.min(s[3:6]) + s[6] * rough
        inside = jnp.where(lung < 0, jnp.clip(-blob / s[7], 0, 1) * s[9], 0)
        return hu + inside * (s[8] - hu), None

    return jax.lax.scan(body, hu, _lesions(person, voxel))[0]


def _lesions(person: Person, voxel: float) -> Array:
    """Return a row for each lesion: centre, radii, roughness, width of the edge in mm, HU, 0 or 1."""
    rows = [
        _several(person, "nodules", NODULES, (4.0, 9.0, 26.0), 0.0, voxel, SOLID),
        _several(person, "mass", 1, (30.0, 44.0, 90.0), 2.5, voxel, SOLID),
        _several(person, "consolidation", 2, (40.0, 75.0, 150.0), 8.0, 12.0, 20.0),
        _several(person, "ground_glass", PATCHES, (24.0, 46.0, 110.0), 7.0, 14.0, GLASS),
        _several(person, "bullae", BULLAE, (15.0, 32.0, 110.0), 0.0, voxel, BULLA),
    ]
    return jnp.concatenate(rows)


def _several(
    person: Person, finding: str, most: int, diameter: Sizes, rough: float, edge: float, value: float
) -> Array:
    """Return rows of one lesion, and of each further one with half the chance of the one before.

    Args:
      person: the person's numbers.
      finding: name of the finding.
      most: number of lesions at most.
      diameter: in mm, below which 2.5, 50 and 97.5 % stay.
      rough: height of its surface's waves in mm.
      edge: width in mm over which it reaches ``value``.
      value: HU inside.
    """
    u = person.draws(finding, most, 9).T
    there = person.has[finding] * jnp.cumprod((u[8] < 0.5).at[0].set(True))
    radius = skewed_size(u[0], diameter) / 2
    side = jnp.where(u[1] < 0.55, -1.0, 1.0)  # the right lung is the larger one
    # A circle of the axial plane, in which the square root makes places as frequent near the wall as inside.
    out, angle = jnp.sqrt(u[2]), 2 * jnp.pi * u[3]
    d = person.base + 30.0 + u[4] * (person.top - person.base - 55.0)
    narrow = 1 - 0.5 * smooth(d, 20.0, person.top)
    h = 8.0 + 62.0 * narrow * out * jnp.cos(angle)
    w = side * (68.0 + 42.0 * out * jnp.sin(angle)) * (0.4 + 0.6 * narrow)
    hard = jnp.where((u[7] < 0.2) & (value == SOLID) & (radius < 8.0), CALCIUM, value)
    same = (jnp.full((most,), rough), jnp.full((most,), edge))
    return jnp.stack(
        [d, h, w, radius, radius * (0.7 + 0.6 * u[5]), radius * (0.7 + 0.6 * u[6]), *same, hard, there], axis=-1
    )


def pleura(hu: Array, person: Person, p: Points, cage: Distance, lung: Distance, voxel: float) -> Array:
    """Paint fluid that settles at the lowest place of a lung or of both, and air that rises on one side.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      cage: signed distance in mm to the rib cage.
      lung: signed distance in mm to the lungs.
      voxel: voxel size in mm.
    """
    d, h, w = p
    up = person.has["upright"]
    u = person.draws("effusion", 5)
    both = u[1] < 1 / 3
    # Height of the fluid in mm above the lowest place of a lung; a deep layer reaches higher at the wall.
    sides = [
        jnp.where(both | (person.side("effusion") == side), skewed_size(u[i], (18.0, 45.0, 150.0)), -50.0)
        for side, i in ((-1.0, 2), (1.0, 3))
    ]
    height = jnp.where(w < 0, sides[0], sides[1])
    lowest = up * (d - person.base - 12.0) + (1 - up) * (0.8 * (78.0 - h) + 0.35 * (d - person.base - 40.0))
    hu = paint(hu, common(lung, lowest - height), FLUID, voxel, person.has["effusion"])
    u = person.draws("pneumothorax", 2)
    rim = skewed_size(u[1], (8.0, 20.0, 70.0))
    rise = up * smooth(d, -60.0, person.top) + (1 - up) * smooth(-h, -60.0, 60.0)
    air = common(lung, -WALL - rim * (0.25 + rise) - cage, -person.side("pneumothorax") * w)
    return paint(hu, air, AIR, voxel, person.has["pneumothorax"])


def hernia(hu: Array, person: Person, p: Points, voxel: float) -> Array:
    """Paint a part of the stomach behind the heart, with air over its content.

    Args:
      hu: the volume so far, (D, H, W) HU.
      person: the person's numbers.
      p: voxel centres (d, h, w) in mm.
      voxel: voxel size in mm.
    """
    r = skewed_size(person.draws("hernia", 2)[1], (14.0, 24.0, 55.0))
    up = person.has["upright"]
    centre = (person.left_dome + 0.4 * r, 24.0, 4.0)
    sac = ellipsoid(p, centre, (1.1 * r, 0.8 * r, r))
    hu = paint(hu, sac, WALL_HU, voxel, person.has["hernia"])
    top = up * (centre[0] + 0.3 * r - p[0]) + (1 - up) * (p[1] - centre[1] + 0.3 * r)
    return paint(hu, common(sac + 3.0, top), -960.0, voxel, person.has["hernia"])
