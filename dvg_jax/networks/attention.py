"""The U-Net's three attentions, each of the form x + f(norm(x)) on (B, D, H, W, C).

    temporal   along D for every (h, w)             softmax, rotary, relative position bias
    spatial    over the H x W tokens of a D-slice   softmax; only at the bottom, where they are few
    linear     over the H x W tokens of a D-slice   cost linear in the tokens

Tokens stay on their axes from end to end: the einsums name them, nothing is transposed by hand.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.networks.blocks import Dense
from dvg_jax.networks.positional import rotate
from dvg_jax.shapes import Features

Heads = Float[Array, "B D *tokens n e"]
"""``n`` heads of ``e`` channels; the tokens of a D-slice are H x W, or one axis."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels with a gain and no bias, float32 inside."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        gamma = self.param("gamma", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + 1e-5) * gamma).astype(self.dtype)


class _Attention(nn.Module):
    """What the three share: the norm, the projections to ``heads`` x ``head_dim`` and back."""

    heads: int
    head_dim: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def project(self, x: Features) -> tuple[Heads, Heads, Heads]:
        """q, k and v of the normalised features."""
        x = ChannelNorm(self.dtype, self.param_dtype, name="norm")(x)
        qkv = self.dense(3 * self.heads * self.head_dim, use_bias=False, name="to_qkv")(x)
        q, k, v = (y.reshape(*x.shape[:-1], self.heads, self.head_dim) for y in jnp.split(qkv, 3, axis=-1))
        return q, k, v

    def merge(self, x: Features, heads: Heads, use_bias: bool) -> Features:
        """The heads' joint answer, added to what came in."""
        out = heads.astype(self.dtype).reshape(*x.shape[:-1], -1)
        return x + self.dense(x.shape[-1], use_bias=use_bias, name="to_out")(out)

    def dense(self, features: int, use_bias: bool, name: str) -> Dense:
        return Dense(features, use_bias, self.dtype, self.param_dtype, name=name)


class TemporalAttention(_Attention):
    """Along D. ``bias`` is shared by all of the network's temporal attentions."""

    @nn.compact
    def __call__(self, x: Features, bias: Float[Array, "heads D D"]) -> Features:
        q, k, v = self.project(x)
        q = rotate(q * self.head_dim**-0.5).astype(self.dtype)
        k = rotate(k).astype(self.dtype)
        similarity = jnp.einsum("bihwne,bjhwne->bhwnij", q, k, preferred_element_type=jnp.float32) + bias
        weight = jax.nn.softmax(similarity, axis=-1).astype(self.dtype)
        return self.merge(x, jnp.einsum("bhwnij,bjhwne->bihwne", weight, v), use_bias=False)


class SpatialAttention(_Attention):
    """Over H x W, position-blind."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        q, k, v = (y.reshape(*x.shape[:2], -1, self.heads, self.head_dim) for y in self.project(x))
        similarity = jnp.einsum("bdine,bdjne->bdnij", q, k, preferred_element_type=jnp.float32)
        weight = jax.nn.softmax(similarity * self.head_dim**-0.5, axis=-1).astype(self.dtype)
        return self.merge(x, jnp.einsum("bdnij,bdjne->bdine", weight, v), use_bias=False)


class LinearAttention(_Attention):
    """Over H x W by way of one e x e context a head: q is a softmax over channels, k over tokens."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        q, k, v = self.project(x)
        q = jax.nn.softmax(q.astype(jnp.float32), axis=-1) * self.head_dim**-0.5
        k = jax.nn.softmax(k.astype(jnp.float32), axis=(2, 3))
        context = jnp.einsum("bdhwni,bdhwnj->bdnij", k.astype(self.dtype), v)
        return self.merge(x, jnp.einsum("bdnij,bdhwni->bdhwnj", context, q.astype(self.dtype)), use_bias=True)
