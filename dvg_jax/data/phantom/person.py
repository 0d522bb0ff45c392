"""Draw the numbers by which one chest differs from the next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.shapes import Key

RANGES: dict[str, tuple[float, float]] = {
    "scale": (0.93, 1.06),
    "turn": (-0.07, 0.07),  # radians about the foot-head axis
    "shift_d": (-10.0, 10.0),
    "shift_h": (-8.0, 8.0),
    "shift_w": (-6.0, 6.0),
    "fat": (6.0, 26.0),  # subcutaneous, mm
    "muscle": (8.0, 15.0),  # over the rib cage, mm
    "cage_w": (122.0, 142.0),  # half width of the rib cage, mm
    "cage_h": (82.0, 100.0),  # half depth
    "top": (126.0, 150.0),  # of the lungs, mm above the centre
    "kyphosis": (12.0, 32.0),  # how far the spine bows backwards, mm
    "right_dome": (-86.0, -48.0),  # top of the right hemidiaphragm
    "dome_drop": (4.0, 18.0),  # how much lower the left one is
    "dome_depth": (45.0, 75.0),  # from the domes to the costophrenic angles
    "heart": (0.88, 1.16),
    "heart_shift": (-8.0, 10.0),
    "aorta": (11.0, 16.0),  # radius, mm
    "lung_hu": (-880.0, -760.0),
    "gradient": (0.0, 0.7),  # HU a mm towards the back, where blood settles
    "bone": (0.65, 1.1),
    "rib_slope": (55.0, 85.0),  # drop of a rib from spine to front, mm
    "rib_phase": (-0.5, 0.5),
    "contrast": (0.0, 150.0),  # HU that a contrast agent adds to blood
    "bubble": (14.0, 34.0),  # radius of the stomach's air, mm
    "arm": (0.0, 1.0),
}


class Person(NamedTuple):
    """Hold one draw from ``RANGES``, each number a scalar, and the key for the rest of the drawing."""

    numbers: dict[str, Array]
    female: Array
    key: Key

    def __getattr__(self, name: str) -> Array:
        try:
            return self.numbers[name]
        except KeyError:
            raise AttributeError(name) from None


def draw_person(key: Key) -> Person:
    """Draw a person: uniform in every range, a woman with probability one half."""
    key_numbers, key_sex, key_rest = jax.random.split(key, 3)
    share = jax.random.uniform(key_numbers, (len(RANGES),))
    low, high = jnp.asarray(list(RANGES.values())).T
    numbers = dict(zip(RANGES, low + share * (high - low), strict=True))
    return Person(numbers, jax.random.bernoulli(key_sex).astype(jnp.float32), key_rest)
