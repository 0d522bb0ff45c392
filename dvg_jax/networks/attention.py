"""Define the U-Net's three attentions, each of the form x + f(norm(x)) on (B, D, H, W, C).

    temporal   along D for every (h, w)             softmax, rotary, relative position bias
    spatial    over the H x W tokens of a D-slice   softmax; only at the bottom, where they are few
    linear     over the H x W tokens of a D-slice   cost linear in the tokens

Tokens stay on their axes throughout: the einsums name the axes, and nothing is transposed by hand.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.networks.blocks import Dense
from dvg_jax.networks.platforms import by_platform
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
        q = (rotate(q) * self.head_dim**-0.5).astype(self.dtype)
        k = rotate(k).astype(self.dtype)
        return self.merge(x, attend_along_depth(q, k, v, bias), use_bias=False)


@jax.custom_vjp
def attend_along_depth(q: Heads, k: Heads, v: Heads, bias: Float[Array, "heads D D"]) -> Heads:
    """Return softmax(q k + bias) v over D for every (h, w). Similarities and softmax are float32.

    Args:
      q: scaled queries, (B, D, H, W, n, e).
      k: keys, of the same shape.
      v: values, of the same shape.
      bias: what is added to the similarity of (query, key), (n, D, D).
    """
    return _attend(q, k, v, bias)[0]


def _attend(q: Heads, k: Heads, v: Heads, bias: Array) -> tuple[Heads, tuple[Array, ...]]:
    if len(q) == 1:
        # On a GPU XLA would turn both before it rotates them, though its products can read one case as it lies.
        q, k = (with_layout_constraint(y, Layout(tuple(range(y.ndim)))) for y in (q, k))
    similarity = jnp.einsum("bihwne,bjhwne->bhwnij", q, k, preferred_element_type=jnp.float32)
    # The bias is added by the softmax, not by the product, for which it would be repeated for every (h, w).
    weight = jax.nn.softmax(jax.lax.optimization_barrier(similarity) + bias, axis=-1).astype(v.dtype)
    return jnp.einsum("bhwnij,bjhwne->bihwne", weight, v), (q, k, v, weight)


def _attend_backward(saved: tuple[Array, ...], given: Heads) -> tuple[Array, ...]:
    """Differentiate with the weights that were applied; products take the compute type, as in the forward pass."""
    q, k, v, weight = saved
    by_weight = jnp.einsum("bihwne,bjhwne->bhwnij", given, v, preferred_element_type=jnp.float32)
    p = weight.astype(jnp.float32)
    by_similarity = p * (by_weight - jnp.sum(p * by_weight, axis=-1, keepdims=True))
    by_bias = by_similarity.sum((0, 1, 2))
    by_similarity = by_similarity.astype(v.dtype)
    by_q = jnp.einsum("bhwnij,bjhwne->bihwne", by_similarity, k)
    by_k = jnp.einsum("bhwnij,bihwne->bjhwne", by_similarity, q)
    by_v = jnp.einsum("bhwnij,bihwne->bjhwne", weight, given)
    return by_q, by_k, by_v, by_bias


attend_along_depth.defvjp(_attend, _attend_backward)


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
        q = (jax.nn.softmax(q.astype(jnp.float32), axis=-1) * self.head_dim**-0.5).astype(self.dtype)
        k = k.astype(jnp.float32)
        k = jnp.exp(k - jax.lax.stop_gradient(k.max((2, 3), keepdims=True))).astype(self.dtype)
        # The softmax over tokens divides the context, which is small, and not the keys of all tokens.
        total = k.astype(jnp.float32).sum((2, 3))
        # With few tokens the context of all heads is the larger array.
        many = x.shape[2] * x.shape[3] >= self.heads * self.head_dim
        elsewhere = _all_heads_at_once if many else _head_by_head
        out = by_platform(q, k, v, total, cpu=_head_by_head, default=elsewhere)
        return self.merge(x, out, use_bias=True)


def _head_by_head(q: Heads, k: Heads, v: Heads, total: Float[Array, "B D n e"]) -> Heads:
    """Return q (k v / total): a small context for each head."""
    context = jnp.einsum("bdhwni,bdhwnj->bdnij", k, v)
    context = (context.astype(jnp.float32) / total[..., None]).astype(v.dtype)
    return jnp.einsum("bdnij,bdhwni->bdhwnj", context, q)


def _all_heads_at_once(q: Heads, k: Heads, v: Heads, total: Float[Array, "B D n e"]) -> Heads:
    """Return the same from one context of all heads, 0 between different ones: a GPU then reads all as it lies."""
    *cases, heads, e = q.shape
    q, k, v = (y.reshape(*y.shape[:2], -1, heads * e) for y in (q, k, v))
    context = jnp.einsum("bdti,bdtj->bdij", k, v).astype(jnp.float32)
    own = np.kron(np.eye(heads), np.ones((e, e))).astype(np.float32)
    context = (context * own / total.reshape(*total.shape[:2], -1, 1)).astype(v.dtype)
    return jnp.einsum("bdij,bdti->bdtj", context, q).reshape(*cases, heads, e)
