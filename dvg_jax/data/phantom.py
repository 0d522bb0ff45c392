"""Random chests."""

import jax
import jax.numpy as jnp

from dvg_jax.data.intensity import hu_to_intensity
from dvg_jax.shapes import Key, Volume


def chest_hu(key: Key, size: int = 128) -> Volume:
    c = (jnp.arange(size) + 0.5) / size * 2 - 1
    d, h, w = jnp.meshgrid(c, c, c, indexing="ij")
    u = jax.random.uniform(key, (16,), minval=0.9, maxval=1.1)

    def ell(cd, ch, cw, rd, rh, rw, soft=0.15):
        r = jnp.sqrt(((d - cd) / rd) ** 2 + ((h - ch) / rh) ** 2 + ((w - cw) / rw) ** 2)
        return jax.nn.sigmoid((1 - r) * 4 * size / 32 / 0.5)

    hu = jnp.full((size,) * 3, -1000.0)

    def put(hu, mask, value):
        return hu + mask * (value - hu)

    hu = put(hu, ell(0, 0, 0, 2.0, 0.62 * u[0], 0.9 * u[1]), 30.0)
    for s, i in ((-1, 2), (1, 4)):
        hu = put(hu, ell(0.1 * u[i], 0.0, s * 0.42, 0.75 * u[i + 1], 0.42 * u[i], 0.3 * u[i + 1]), -800.0)
    hu = put(hu, ell(-0.1 * u[6], -0.15, 0.15 * u[7], 0.35 * u[8], 0.3, 0.35 * u[9]), 40.0)
    hu = put(hu, ell(0, 0.42 * u[0], 0, 2.0, 0.13, 0.13), 350.0)
    return hu


def chest(key: Key, size: int = 128) -> Volume:
    return hu_to_intensity(chest_hu(key, size))
