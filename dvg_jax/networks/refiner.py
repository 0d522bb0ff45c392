"""Define the network that corrects a CT from features of the CT and of its films that lie where its voxels lie."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from dvg_jax.networks.blocks import Conv, ConvTranspose
from dvg_jax.networks.vqgan3d import conv3, res_block
from dvg_jax.shapes import Features, Resized

CELL = 2
"""A cell has so many voxels along each edge: the network's finest level has an eighth of the positions."""

STEP = 0.1
"""The output is scaled by this, so that an untrained network changes a CT little."""


class Refiner(nn.Module):
    """Map features (B, D, H, W, C) to a change of the CT (B, D, H, W, 1): a residual U-Net over cells of voxels.

    Attributes:
      widths: channels of each level, the finest first; multiples of ``num_groups``. D, H and W are multiples of
        ``2 ** len(widths)``.
      num_groups: of the normalisation.
      remat: compute activations again in the backward pass instead of storing them.
    """

    widths: tuple[int, ...] = (24, 48, 72)
    num_groups: int = 8
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Resized:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        four = {"kernel_size": (4, 4, 4), "padding_mode": "replicate", **types}

        def block(x: Array, name: str) -> Array:
            return res_block(self.remat)(self.num_groups, **types, name=name)(x)

        x = conv3(self.widths[0], **types, name="conv_first")(to_cells(x))
        skips = []
        for i, width in enumerate(self.widths[1:]):
            skips.append(block(x, f"down_{i}_res"))
            halved = Conv(width, strides=(2, 2, 2), padding=((1, 1),) * 3, **four, name=f"down_{i}")
            x = halved(skips[-1])
        for i in range(2):
            x = block(x, f"middle_{i}_res")
        for i in reversed(range(len(skips))):
            width = self.widths[i]
            x = ConvTranspose(width, **four, name=f"up_{i}")(x)
            x = Conv(width, (1, 1, 1), **types, name=f"up_{i}_join")(jnp.concatenate([x, skips[i]], -1))
            x = block(x, f"up_{i}_res")
        x = conv3(CELL**3, **types, name="conv_last")(nn.silu(x))
        return STEP * from_cells(x.astype(jnp.float32))


def to_cells(x: Features) -> Resized:
    """Move the voxels of each cell to the channels: (B, D, H, W, C) to (B, D / 2, H / 2, W / 2, 8 C)."""
    b, d, h, w, c = x.shape
    x = x.reshape(b, d // CELL, CELL, h // CELL, CELL, w // CELL, CELL, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, d // CELL, h // CELL, w // CELL, CELL**3 * c)


def from_cells(x: Features) -> Resized:
    """Invert :func:`to_cells`."""
    b, d, h, w, c = x.shape
    x = x.reshape(b, d, h, w, CELL, CELL, CELL, c // CELL**3).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, CELL * d, CELL * h, CELL * w, c // CELL**3)
