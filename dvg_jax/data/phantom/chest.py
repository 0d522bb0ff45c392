"""Draw random chests in HU from a key: endless training data without a download.

A chest is a stack of solids in a cube of 320 mm, painted from the outside in. The same key gives the same chest at
every size. Axes: d foot to head, h anterior to posterior, w patient right to left, in mm from the cube's centre.
``docs/phantom.md`` compares it with real scans.
"""

import jax
import jax.numpy as jnp

from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.phantom.organs import abdomen, airways, heart_and_vessels, lungs, pathology
from dvg_jax.data.phantom.person import Person, draw_person
from dvg_jax.data.phantom.skeleton import skeleton
from dvg_jax.data.phantom.solids import Points
from dvg_jax.data.phantom.wall import body, cage_distance
from dvg_jax.shapes import Key, Volume

AIR = -1000.0
NOISE_HU = 12.0


def chest_hu(key: Key, size: int = 128) -> Volume:
    """Draw a chest in HU, (size, size, size). The function is pure and can be jitted for a fixed ``size``."""
    voxel = FIELD_MM / size
    person = draw_person(key)
    p = _points(person, size)
    cage = cage_distance(person, p)
    hu = jnp.full((size,) * 3, AIR)
    hu = body(hu, person, p, cage, voxel)
    hu = abdomen(hu, person, p, cage, voxel)
    hu, lung = lungs(hu, person, p, cage, voxel)
    hu = heart_and_vessels(hu, person, p, voxel)
    hu = airways(hu, person, p, voxel)
    hu = pathology(hu, person, p, lung, voxel)
    hu = skeleton(hu, person, p, cage, voxel)
    noise = jax.random.normal(jax.random.fold_in(key, size), hu.shape)
    # A voxel averages the noise of the finer voxels that it covers.
    return jnp.where(hu > AIR + 50, hu + noise * NOISE_HU * (2.5 / voxel), hu)


def chest(key: Key, size: int = 128) -> Volume:
    """Draw a chest (size, size, size) as intensity in [0, 1]."""
    return hu_to_intensity(chest_hu(key, size))


def _points(person: Person, size: int) -> Points:
    """Return voxel centres in the person's own coordinates: shifted, turned about d and scaled."""
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (FIELD_MM / size) - FIELD_MM / 2
    d, h, w = axis[:, None, None], axis[None, :, None], axis[None, None, :]
    h, w = h - person.shift_h, w - person.shift_w
    cos, sin = jnp.cos(person.turn), jnp.sin(person.turn)
    h, w = cos * h - sin * w, sin * h + cos * w
    scale = person.scale
    return (d - person.shift_d) / scale, h / scale, w / scale
