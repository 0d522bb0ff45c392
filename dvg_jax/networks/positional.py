"""Encode position along D (relative bias, rotation) and diffusion time for the U-Net."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.shapes import Times

BUCKETS = 32
EXACT = 8
# Bucket of the distances 8, 9, ... 26; nearer ones have a bucket each, farther ones share the last. Written
# out because 16 lies on an edge of the logarithmic formula, where rounding decides.
LOGARITHMIC = (8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 12, 12, 13, 13, 13, 14, 14, 14, 14)
LAST = BUCKETS // 2 - 1


def relative_buckets(n: int) -> np.ndarray:
    """Return the bucket, 0 to 31, of (query, key) among ``n`` tokens, (n, n): 16 to 31 where the key comes later."""
    by_distance = np.array([*range(EXACT), *LOGARITHMIC, LAST])
    delta = np.arange(n)[None, :] - np.arange(n)[:, None]
    distance = np.minimum(np.abs(delta), len(by_distance) - 1)
    return by_distance[distance] + np.where(delta > 0, BUCKETS // 2, 0)


class RelativePositionBias(nn.Module):
    """Return what the distance of two tokens adds to their similarity, per head."""

    heads: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, n: int) -> Float[Array, "heads query key"]:
        table = nn.Embed(
            BUCKETS,
            self.heads,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="relative_attention_bias",
        ).embedding
        # A product with zeros and a one picks rows as a look-up does. The gradient of a look-up is a scatter, which a
        # GPU adds up in another order each time.
        chosen = np.eye(BUCKETS, dtype=np.float32)[relative_buckets(n)]
        return jnp.einsum("qkr,rh->hqk", chosen, table.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def rotate(x: Float[Array, "B D *rest e"]) -> Float[Array, "B D *rest e"]:
    """Apply the rotary embedding along axis 1: token p turns the pair (x_2j, x_2j+1) by p * 10000^(-2j/e). float32."""
    tokens, e = x.shape[1], x.shape[-1]
    angle = np.arange(tokens)[:, None] * 10000.0 ** (-np.arange(0, e, 2) / e)
    angle = angle.reshape(tokens, *[1] * (x.ndim - 3), e // 2, 1)
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], e // 2, 2)
    # One elementwise expression, which a GPU computes in one pass; stacking two halves takes several.
    return (pairs * cos + pairs[..., ::-1] * np.concatenate([-sin, sin], axis=-1)).reshape(x.shape)


def time_features(t: Times, dim: int) -> Float[Array, "B dim"]:
    """Return [sin, cos] of t times dim/2 frequencies from 1 down to 1/10000, both ends included."""
    half = dim // 2
    frequencies = jnp.exp(-np.log(10000.0) * jnp.arange(half) / (half - 1))
    angle = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
