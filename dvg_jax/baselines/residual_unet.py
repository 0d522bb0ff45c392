"""Define the deep residual U-Net (Zhang et al. 2018, arXiv 1711.10684): input views to one new view, in 2D.

It is the row UNet of the paper's Table VI, one network a setting. It has pre-activation units, and strides instead of
pooling. A choice of this project: sigmoid output, squared error to the true view min-max normalised.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float
from ml_collections import ConfigDict

from dvg_jax.baselines.base import Baseline, Regression, from_views
from dvg_jax.baselines.layers import ConvNorm, conv, scaled, upsample_linear
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.networks.blocks import BatchNorm
from dvg_jax.shapes import Images, NewImages, Views

WIDTHS = (64, 128, 256, 512)
HALVINGS = len(WIDTHS) - 1


class Unit(nn.Module):
    """Apply norm, ReLU, 3 x 3, twice, plus a normed 1 x 1; the network's first unit starts with its convolution."""

    features: int
    stride: int = 1
    first: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool) -> NewImages:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = x if self.first else nn.relu(BatchNorm(name="norm1", **types)(x, train))
        y = conv(2, self.features, 3, self.stride, name="conv1", **types)(y)
        y = nn.relu(BatchNorm(name="norm2", **types)(y, train))
        y = conv(2, self.features, 3, name="conv2", **types)(y)
        return y + ConvNorm(
            2, self.features, 1, self.stride, use_bias=True, relu=False, name="shortcut", **types
        )(x, train)  # fmt: skip


class ResidualUNet(nn.Module):
    """Map views (B, V, S, S, 1) to the new view, (B, 1, S, S, 1). S is a multiple of 8."""

    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, views: Views, train: bool = False) -> Float[Array, "B 1 h w 1"]:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = [scaled(c, self.width) for c in WIDTHS]
        x = jnp.moveaxis(views[..., 0], 1, -1).astype(self.dtype)
        skips = []
        for i, features in enumerate(widths):
            x = Unit(features, 2 if i else 1, first=i == 0, name=f"encoder_{i}", **types)(x, train)
            skips.append(x)
        skips.pop()
        for i in reversed(range(HALVINGS)):
            x = jnp.concatenate([upsample_linear(x), skips.pop()], axis=-1)
            x = Unit(widths[i], name=f"decoder_{i}", **types)(x, train)
        x = conv(2, 1, 1, name="out", **types)(x)
        return nn.sigmoid(x.astype(jnp.float32))[:, None]


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build the residual U-Net from ``config.baselines.residual_unet``: from ``dvg.angles`` to ``dvg.new_angles``."""
    settings = config.baselines.residual_unet
    if len(dvg.new_angles) != 1:
        raise UserError(f"config.new_angles is {dvg.new_angles}; allowed for residual_unet: one angle")
    if config.size % 2**HALVINGS:
        raise UserError(f"config.size is {config.size}; allowed for residual_unet: multiples of {2**HALVINGS}")
    network = ResidualUNet(settings.width, jnp.dtype(config.dtype))
    return from_views("residual_unet", "UNet", Regression(network), network, dvg, makes_views=True)
