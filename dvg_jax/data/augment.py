"""Vary a real chest, as another patient or another position might look: :func:`augment`."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates
from jax.scipy.spatial.transform import Rotation
from jaxtyping import Float

from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.shapes import Key, Volume


@dataclass(frozen=True)
class Spread:
    """Say how far chests are varied: every number is drawn evenly from minus to plus its bound.

    Attributes:
      rotation_deg: about each axis.
      scale: change of length along each axis, as a share.
      shift_mm: along each axis.
      bend_mm: shift of each control point of the smooth deformation, along each axis.
      controls: number of control points along an axis.
      gain: change of the density above air, as a share.
      noise_hu: bound of the noise's standard deviation at voxels of 2.5 mm; larger ones average it.
      mirrored: share of chests with left and right exchanged. None by default, since their hearts are on the wrong
        side.
    """

    rotation_deg: float = 6.0
    scale: float = 0.08
    shift_mm: float = 15.0
    bend_mm: float = 4.0
    controls: int = 4
    gain: float = 0.03
    noise_hu: float = 12.0
    mirrored: float = 0.0


CHESTS = Spread()
"""Training chests are varied by this spread."""


@partial(jax.jit, static_argnames="spread")
def augment(ct: Volume, key: Key, spread: Spread = CHESTS) -> Volume:
    """Return a chest moved, bent, scaled and with other densities and noise, which ``key`` alone decides.

    The voxels are interpolated once, linearly. Outside the cube the values of its faces go on: the foot end always cuts
    the trunk, and air there would show an edge on the films that no patient has. Where a short scan was padded, air
    goes on.

    Args:
      ct: cube of intensities in [0, 1] that covers 320 mm.
      key: of this example.
      spread: bounds of what is drawn.
    """
    places, density, level, noise = jax.random.split(key, 4)
    moved = map_coordinates(ct, list(_places(places, len(ct), spread)), order=1, mode="nearest")
    gain = 1 + _even(density, spread.gain)
    deviation = _even(level, spread.noise_hu / HU_RANGE * 2.5 / (FIELD_MM / len(ct)))
    varied = moved * gain + deviation * jax.random.normal(noise, ct.shape)
    return jnp.where(moved > 0, varied, 0.0).clip(0, 1)


def _places(key: Key, size: int, spread: Spread) -> Float[Array, "3 D H W"]:
    """Draw the place in the source, in voxels, of every voxel of the result."""
    turn, stretch, shift, bend, side = jax.random.split(key, 5)
    voxel = FIELD_MM / size
    sign = jnp.where(jax.random.bernoulli(side, spread.mirrored), -1.0, 1.0)
    scale = (1 + _even(stretch, spread.scale, (3,))) * jnp.array([1.0, 1.0, sign])
    angles = _even(turn, spread.rotation_deg, (3,))
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() / scale
    axis = jnp.arange(size) - (size - 1) / 2
    d, h, w = (
        matrix[:, i, None, None, None] * jnp.expand_dims(axis, [j for j in range(3) if j != i]) for i in range(3)
    )
    offsets = _even(bend, spread.bend_mm / voxel, (3, *(spread.controls,) * 3))
    bent = jax.image.resize(offsets, (3, size, size, size), "cubic")
    start = _even(shift, spread.shift_mm / voxel, (3, 1, 1, 1)) + (size - 1) / 2
    return d + h + w + bent + start


def _even(key: Key, bound: float, shape: tuple[int, ...] = ()) -> Array:
    """Draw evenly from -bound to bound."""
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
