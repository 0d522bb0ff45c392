"""PatchGAN critics (Isola et al. 2017): of axial slices in 2D, of volumes in 3D."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from dvg_jax.networks.blocks import Conv, Triple
from dvg_jax.shapes import Features

SLOPE = 0.2
MAX_WIDENING = 8


class BatchNorm(nn.Module):
    """PyTorch's: normalises by the batch's biased variance, keeps a running unbiased one (momentum 0.1)."""

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, train: bool) -> Features:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            if not self.is_initializing():
                count = x.size / channels
                unbiased = var * count / max(count - 1, 1)
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    running.value += self.momentum * (jax.lax.stop_gradient(new) - running.value)
        y = (x - mean) * jax.lax.rsqrt(var + self.epsilon) * scale + bias
        return y.astype(self.dtype)


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches and the outputs of all stages, the last of which is the logits.

    Attributes:
      dims: 2 for images (B, H, W, 1), 3 for volumes (B, D, H, W, 1).
      width: channels of the first stage; doubled at each, up to 8 times.
      layers: strided stages.
    """

    dims: int = 3
    width: int = 64
    layers: int = 3
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features, train: bool = True) -> tuple[Features, list[Features]]:
        flat = self.dims == 2
        x = x[:, None] if flat else x
        kernel: Triple = (1, 4, 4) if flat else (4, 4, 4)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = []
        for i in range(self.layers + 2):
            last = i == self.layers + 1
            stride = 2 if i < self.layers else 1
            x = Conv(
                1 if last else self.width * min(2**i, MAX_WIDENING),
                kernel,
                (1 if flat else stride, stride, stride),
                ((0, 0) if flat else (2, 2), (2, 2), (2, 2)),
                **types,
                name=f"conv{i}",
            )(x)
            if not last:
                x = BatchNorm(**types, name=f"norm{i}")(x, train) if i else x
                x = nn.leaky_relu(x, SLOPE)
            features.append(x[:, 0] if flat else x)
        return features[-1].astype(jnp.float32), features


def hinge_loss(real: Array, fake: Array) -> Array:
    """A critic's loss from its logits."""
    return 0.5 * (jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + fake)))


def vanilla_loss(real: Array, fake: Array) -> Array:
    """The original GAN's critic loss, from logits."""
    return 0.5 * (jnp.mean(nn.softplus(-real)) + jnp.mean(nn.softplus(fake)))


def feature_distance(real: list[Array], fake: list[Array]) -> Array:
    """Sum over all stages but the logits of the mean absolute difference; gradients reach ``fake`` alone."""
    pairs = zip(real[:-1], fake[:-1], strict=True)
    return sum(jnp.mean(jnp.abs(f - jax.lax.stop_gradient(r))) for r, f in pairs)  # type: ignore[return-value]
