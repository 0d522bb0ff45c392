"""Draw random chests in HU from a key: endless training data without a download.

A chest is a stack of solids in a cube of 320 mm, painted from the outside in. The same key gives the same chest at
every size. Axes: d foot to head, h anterior to posterior, w patient right to left, in mm from the cube's centre.
``docs/phantom.md`` compares it with real scans.
"""

import jax
import jax.numpy as jnp

from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.phantom.devices import devices
from dvg_jax.data.phantom.disease import hernia, lesions, pleura
from dvg_jax.data.phantom.organs import abdomen, airways, heart_and_vessels, lungs
from dvg_jax.data.phantom.person import Person, draw_person
from dvg_jax.data.phantom.skeleton import skeleton
from dvg_jax.data.phantom.solids import Points, common, paint
from dvg_jax.data.phantom.wall import body, cage_distance
from dvg_jax.shapes import Key, Volume

AIR = -1000.0

VERSION = 2
"""It counts up whenever a key draws another chest than before, so that a run does not go on with other examples."""


def chest_hu(key: Key, size: int = 128, plain: bool = False) -> Volume:
    """Draw a chest in HU, (size, size, size). The function is pure and can be jitted for a fixed ``size``.

    Args:
      key: of all that is drawn.
      size: voxels along each edge.
      plain: draw a person without findings, straight in the middle of the cube.
    """
    person = draw_person(key, plain)
    hu = person_hu(person, size)
    voxel = FIELD_MM / size
    noise = jax.random.normal(jax.random.fold_in(key, size), hu.shape)
    # A voxel averages the noise of the finer voxels that it covers.
    return jnp.where(hu > AIR + 50, hu + noise * person.noise * (2.5 / voxel), hu)


def person_hu(person: Person, size: int) -> Volume:
    """Draw the chest of a person in HU, (size, size, size), without noise."""
    voxel = FIELD_MM / size
    grid = _axes(size)
    p = _points(person, grid)
    inner = _moved(person, p)
    cage = cage_distance(person, p)
    hu = jnp.full((size,) * 3, AIR)
    hu = body(hu, person, p, cage, voxel)
    hu = abdomen(hu, person, p, cage, voxel)
    hu, lung = lungs(hu, person, inner, grid, cage, voxel)
    hu = lesions(hu, person, p, grid, lung, voxel)
    hu = pleura(hu, person, p, cage, lung, voxel)
    hu = heart_and_vessels(hu, person, inner, voxel)
    hu = airways(hu, person, inner, voxel)
    hu = hernia(hu, person, inner, voxel)
    hu = skeleton(hu, person, p, cage, voxel)
    hu = devices(hu, person, p, cage, voxel)
    return paint(hu, -_scanned(person, grid), AIR, voxel, person.has["scanned"])


def chest(key: Key, size: int = 128, plain: bool = False) -> Volume:
    """Draw a chest (size, size, size) as intensity in [0, 1]; see :func:`chest_hu`."""
    return hu_to_intensity(chest_hu(key, size, plain))


def _axes(size: int) -> Points:
    axis = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (FIELD_MM / size) - FIELD_MM / 2
    return axis[:, None, None], axis[None, :, None], axis[None, None, :]


def _points(person: Person, grid: Points) -> Points:
    """Return voxel centres in the person's own coordinates: shifted, turned about all axes, scaled, bent sideways."""
    d, h, w = grid
    d, h, w = d - person.shift_d, h - person.shift_h, w - person.shift_w
    # The angles are small, but for the turn about d.
    cos, sin = jnp.cos(person.turn), jnp.sin(person.turn)
    h, w = cos * h - sin * w, sin * h + cos * w
    d, h, w = d + person.tilt * h - person.roll * w, h - person.tilt * d, w + person.roll * d
    d, h, w = d / person.size, h / person.size, w / person.size
    return d, h, w - person.bend * (1 - ((d - 10.0) / 110.0) ** 2) / (1 + (d / 110.0) ** 4)


def _moved(person: Person, p: Points) -> Points:
    """Return the points of the mediastinum before it was moved over to one side; the chest wall has not moved."""
    d, h, w = p
    return d, h, w - person.shift * jnp.clip(1 - (w / person.cage_w) ** 2, 0, 1)


def _scanned(person: Person, grid: Points) -> jax.Array:
    """Return the distance in mm to what a scan shows: slices around the lungs, of which it reconstructs a circle."""
    d, h, w = grid
    middle, half = person.shift_d, person.size * person.top
    return common(
        d - middle - half - person.over, middle - half - person.under - d, jnp.sqrt(h**2 + w**2) - person.field
    )
