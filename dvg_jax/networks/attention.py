"""Define the U-Net's three attentions, each of the form x + f(norm(x)) on (B, D, H, W, C).

    temporal   along D for every (h, w)             softmax, rotary, relative position bias
    spatial    over the H x W tokens of a D-slice   softmax; only at the bottom, where they are few
    linear     over the H x W tokens of a D-slice   cost linear in the tokens

Tokens stay on their axes throughout: the einsums name the axes, and nothing is transposed by hand.
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
    """Normalise each voxel's channels with a learned gain and no bias, in float32."""

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
    """Share the norm and the projections to ``heads`` x ``head_dim`` and back."""

    heads: int
    head_dim: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def project(self, x: Features) -> tuple[Heads, Heads, Heads]:
        """Return queries, keys and values of the normalised features."""
        x = ChannelNorm(self.dtype, self.param_dtype, name="norm")(x)
        qkv = self.dense(3 * self.heads * self.head_dim, use_bias=False, name="to_qkv")(x)
        q, k, v = (y.reshape(*x.shape[:-1], self.heads, self.head_dim) for y in jnp.split(qkv, 3, axis=-1))
        return q, k, v

    def merge(self, x: Features, heads: Heads, use_bias: bool) -> Features:
        """Project the output of all heads back to the channels of ``x`` and add it to ``x``.

        Args:
          x: the attention's input, (B, D, H, W, C).
          heads: the output of each head, with ``heads`` x ``head_dim`` values a voxel.
          use_bias: whether the projection has a bias.
        """
        out = heads.astype(self.dtype).reshape(*x.shape[:-1], -1)
        return x + self.dense(x.shape[-1], use_bias=use_bias, name="to_out")(out)

    def dense(self, features: int, use_bias: bool, name: str) -> Dense:
        """Return a dense layer with the attention's types."""
        return Dense(features, use_bias, self.dtype, self.param_dtype, name=name)


class TemporalAttention(_Attention):
    """Attend along D. All temporal attentions of a network share one ``bias``."""

    @nn.compact
    def __call__(self, x: Features, bias: Float[Array, "heads D D"]) -> Features:
        q, k, v = self.project(x)
        q = rotate(q * self.head_dim**-0.5).astype(self.dtype)
        k = rotate(k).astype(self.dtype)
        similarity = jnp.einsum("bihwne,bjhwne->bhwnij", q, k, preferred_element_type=jnp.float32) + bias
        weight = jax.nn.softmax(similarity, axis=-1).astype(self.dtype)
        return self.merge(x, jnp.einsum("bhwnij,bjhwne->bihwne", weight, v), use_bias=False)


class SpatialAttention(_Attention):
    """Attend over H x W without any encoding of position."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        q, k, v = (y.reshape(*x.shape[:2], -1, self.heads, self.head_dim) for y in self.project(x))
        similarity = jnp.einsum("bdine,bdjne->bdnij", q, k, preferred_element_type=jnp.float32)
        weight = jax.nn.softmax(similarity * self.head_dim**-0.5, axis=-1).astype(self.dtype)
        return self.merge(x, jnp.einsum("bdnij,bdjne->bdine", weight, v), use_bias=False)


class LinearAttention(_Attention):
    """Attend over H x W through one e x e context per head: q is a softmax over channels, k over tokens."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        q, k, v = self.project(x)
        q = jax.nn.softmax(q.astype(jnp.float32), axis=-1) * self.head_dim**-0.5
        k = k.astype(jnp.float32)
        k = jnp.exp(k - jax.lax.stop_gradient(k.max((2, 3), keepdims=True))).astype(self.dtype)
        # The softmax over tokens divides the context, which is small, and not the keys of all tokens.
        total = k.astype(jnp.float32).sum((2, 3))[..., None]
        context = jnp.einsum("bdhwni,bdhwnj->bdnij", k, v, preferred_element_type=jnp.float32)
        context = (context / total).astype(self.dtype)
        return self.merge(x, jnp.einsum("bdnij,bdhwni->bdhwnj", context, q.astype(self.dtype)), use_bias=True)
