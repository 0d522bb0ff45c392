"""Define ReconNet or PatRecon (Shen et al. 2019, Nat. Biomed. Eng. 3, 880-888), one to twenty views.

    views as channels --2D, halved to 4 x 4--> many channels, split into features and depth --3D, doubled--> CT

The network knows no geometry: views come in a fixed order. As in the public code the last channels are axial slices, so
rows and columns of its feature maps are H and W of the CT. Published for one patient; the paper trains it across them.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from dvg_jax.baselines.base import DISTANCES, Baseline, Regression, from_views
from dvg_jax.baselines.layers import ConvNorm, Standardize, conv, scaled
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.networks.blocks import BatchNorm, ConvTranspose
from dvg_jax.networks.init import Normal
from dvg_jax.shapes import Features, Images, NewImages, Resized, Views, Volumes

WIDTHS = (256, 512, 1024, 2048, 4096)
"""Channels of the representation network at 128; smaller sizes have the last of them."""

BOTTOM = 4
"""Pixels along an edge of the smallest map."""

START_DEPTHS = (2, 4)
MOST_VIEWS = 20


class ReconNet(nn.Module):
    """Map views (B, V, S, S, 1) to a CT. S is a power of two from 8.

    With the published ``start_depth`` 2 the depth after generation is S / 2, and a last 1 x 1 turns it into S slices.
    With 4, as in a third-party port at 128^3, the depth is S already and there is no last convolution.
    """

    width: float = 1.0
    start_depth: int = 2
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, views: Views, train: bool = False) -> Volumes:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size = views.shape[2]
        levels = (size // BOTTOM).bit_length() - 1
        x = Standardize(name="input")(jnp.moveaxis(views[..., 0], 1, -1), train).astype(self.dtype)
        x = self._represent(x, [scaled(c, self.width) for c in WIDTHS[-levels:]], train)
        x = self._transform(x)
        widths = [max(x.shape[-1] * self.start_depth // 2 ** (i + 2), 1) for i in range(levels)]
        x = self._generate(x, widths, train)
        x = jnp.moveaxis(x[..., 0], 1, -1)
        if x.shape[-1] != size:
            x = conv(2, size, 1, use_bias=False, name="slices", **types)(x)
        return jnp.moveaxis(x, -1, 1)[..., None].astype(jnp.float32)

    def _represent(self, x: Images, widths: list[int], train: bool) -> NewImages:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, features in enumerate(widths):
            x = conv(2, features, 4, 2, pad=1, use_bias=False, name=f"down_{i}", **types)(x)
            if i:
                x = nn.relu(BatchNorm(name=f"down_norm_{i}", **types)(x, train))
            x = nn.relu(x + ConvNorm(2, features, 3, relu=False, name=f"same_{i}", **types)(x, train))
        return x

    def _transform(self, x: Images) -> Resized:
        """Split 2D channels into features and depth, the feature index slowest."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        x = nn.relu(conv(2, channels, 1, use_bias=False, name="transform_2d", **types)(x))
        x = jnp.moveaxis(x.reshape(*x.shape[:3], channels // self.start_depth, self.start_depth), -1, 1)
        return nn.relu(conv(3, x.shape[-1], 1, use_bias=False, name="transform_3d", **types)(x))

    def _generate(self, x: Features, widths: list[int], train: bool) -> Resized:
        """Apply transposed convolutions of stride 1, which are convolutions with a flipped kernel."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, features in enumerate(widths):
            x = ConvTranspose(features, (4, 4, 4), use_bias=False, name=f"up_{i}", **types)(x)
            x = nn.relu(BatchNorm(name=f"up_norm_{i}", **types)(x, train))
            if i:
                x = ConvNorm(3, features, 3, name=f"generate_{i}", **types)(x, train)
        return nn.relu(conv(3, 1, 1, use_bias=False, name="density", **types)(x))


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build ReconNet from ``config.baselines.reconnet``."""
    settings = config.baselines.reconnet
    if len(dvg.angles) > MOST_VIEWS:
        raise UserError(f"config.angles has {len(dvg.angles)} views; allowed for reconnet: 1 to {MOST_VIEWS}")
    if config.size < 2 * BOTTOM or config.size & (config.size - 1) or config.size > BOTTOM * 2 ** len(WIDTHS):
        raise UserError(f"config.size is {config.size}; allowed for reconnet: powers of two from 8 to 128")
    if settings.loss not in DISTANCES:
        raise UserError(f"config.baselines.reconnet.loss is {settings.loss!r}; allowed: {', '.join(DISTANCES)}")
    if settings.start_depth not in START_DEPTHS:
        raise UserError(f"config.baselines.reconnet.start_depth is {settings.start_depth}; allowed: 2, 4")
    network = ReconNet(settings.width, settings.start_depth, jnp.dtype(config.dtype))
    return from_views("reconnet", "ReconNet", Regression(network, Normal(), settings.loss), network, dvg)
