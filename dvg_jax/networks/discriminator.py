"""Define PatchGAN critics (Isola et al. 2017): of axial slices in 2D, of volumes in 3D."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.networks.blocks import BatchNorm, Conv, instance_norm
from dvg_jax.networks.convolution import Triple

Judged = Float[Array, "B *space C"]
Patches = Float[Array, "B *patches 1"]

SLOPE = 0.2
MAX_WIDENING = 8


class PatchDiscriminator(nn.Module):
    """Return logits of overlapping patches and the outputs of all stages, the last of which is the logits.

    Attributes:
      dims: 2 for images (B, H, W, 1), 3 for volumes (B, D, H, W, 1).
      width: channels of the first stage; doubled at each, up to 8 times.
      layers: strided stages.
      norm: batch, with scale and offset, or instance, without them and without biases before it.
    """

    dims: int = 3
    width: int = 64
    layers: int = 3
    norm: str = "batch"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Judged, train: bool = True) -> tuple[Patches, list[Array]]:
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
                use_bias=self.norm == "batch" or i == 0 or last,
                **types,
                name=f"conv{i}",
            )(x)
            if not last:
                if i:
                    x = BatchNorm(**types, name=f"norm{i}")(x, train) if self.norm == "batch" else instance_norm(x)
                x = nn.leaky_relu(x, SLOPE)
            features.append(x[:, 0] if flat else x)
        return features[-1].astype(jnp.float32), features


def hinge_loss(real: Array, fake: Array) -> Array:
    """Return a critic's hinge loss from its logits."""
    return 0.5 * (jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + fake)))


def vanilla_loss(real: Array, fake: Array) -> Array:
    """Return the critic loss of the original GAN from its logits."""
    return 0.5 * (jnp.mean(nn.softplus(-real)) + jnp.mean(nn.softplus(fake)))


def feature_distance(real: list[Array], fake: list[Array]) -> Array:
    """Sum the mean absolute difference over all stages but the logits; gradients reach ``fake`` alone. float32."""
    pairs = zip(real[:-1], fake[:-1], strict=True)
    apart = (f.astype(jnp.float32) - jax.lax.stop_gradient(r).astype(jnp.float32) for r, f in pairs)
    return sum(jnp.mean(jnp.abs(difference)) for difference in apart)  # type: ignore[return-value]
