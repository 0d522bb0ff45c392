"""Define the 3D VQGAN: a volume to a small latent, to the nearest codes, and back (Ge et al. 2022, Khader et al. 2023).

x --encoder, pre_vq_conv--> h --nearest codes--> embeddings --post_vq_conv, decoder--> x
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.networks import codebook
from dvg_jax.networks.blocks import Conv, ConvTranspose, GroupNorm
from dvg_jax.networks.convolution import Padding, Triple
from dvg_jax.shapes import Codes, Features, Latent, Volumes

EPSILON = 1e-6


class Reconstruction(NamedTuple):
    """Hold the results of one training pass through a VQGAN; ``embeddings`` are the codes, before straight-through."""

    volume: Volumes
    latent: Latent
    embeddings: Latent
    indices: Codes


def conv3(features: int, dtype: DTypeLike, param_dtype: DTypeLike, name: str) -> Conv:
    """Return a 3 x 3 x 3 convolution with edge padding.

    Args:
      features: output channels.
      dtype: the compute type.
      param_dtype: the type of the weights.
      name: of the module.
    """
    return Conv(
        features, (3, 3, 3), padding=((1, 1),) * 3, padding_mode="replicate", dtype=dtype, param_dtype=param_dtype,
        name=name,
    )  # fmt: skip


def level_strides(downsample: Triple) -> list[Triple]:
    """Return the stride of each level; an axis that has been reduced enough goes on with stride 1."""
    for factor in downsample:
        if factor < 1 or factor & (factor - 1):
            raise UserError(f"downsample is {downsample}; allowed: powers of two")
    levels = max(downsample).bit_length() - 1
    return [tuple(2 if factor >> (i + 1) else 1 for factor in downsample) for i in range(levels)]  # type: ignore[misc]


def res_block(remat: bool) -> type["ResBlock"]:
    """Return the residual block class; with ``remat`` its activations are computed again in the backward pass."""
    return nn.remat(ResBlock) if remat else ResBlock


class ResBlock(nn.Module):
    """Compute x + conv(SiLU(norm(conv(SiLU(norm(x))))))."""

    num_groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        h = x
        for i in (1, 2):
            h = GroupNorm(self.num_groups, EPSILON, self.dtype, self.param_dtype, name=f"norm{i}")(h)
            h = conv3(x.shape[-1], self.dtype, self.param_dtype, f"conv{i}")(nn.silu(h))
        return x + h


class Encoder(nn.Module):
    """Map (B, D, H, W, 1) to (B, d, h, w, n_hiddens * 2^levels)."""

    n_hiddens: int
    downsample: Triple
    num_groups: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Volumes) -> Latent:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv3(self.n_hiddens, self.dtype, self.param_dtype, "conv_first")(x)
        for i, strides in enumerate(level_strides(self.downsample)):
            features = self.n_hiddens * 2 ** (i + 1)
            padding: Padding = tuple((1, 1) if s == 2 else (2, 1) for s in strides)  # type: ignore[assignment]
            x = Conv(
                features, (4, 4, 4), strides, padding, "replicate", **types, name=f"conv_blocks_{i}_down"
            )(x)  # fmt: skip
            x = res_block(self.remat)(self.num_groups, **types, name=f"conv_blocks_{i}_res")(x)
        return nn.silu(GroupNorm(self.num_groups, EPSILON, **types, name="final_norm")(x))


class Decoder(nn.Module):
    """Map (B, d, h, w, n_hiddens * 2^levels) to (B, D, H, W, 1), without an output activation."""

    n_hiddens: int
    upsample: Triple
    num_groups: int
    res_blocks: int = 2
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Latent) -> Volumes:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.silu(GroupNorm(self.num_groups, EPSILON, **types, name="final_norm")(x))
        strides = level_strides(self.upsample)
        for i, stride in enumerate(strides):
            features = self.n_hiddens * 2 ** (len(strides) - i)
            kernel: Triple = tuple(4 if s == 2 else 1 for s in stride)  # type: ignore[assignment]
            x = ConvTranspose(
                features, kernel, padding_mode="replicate", **types, name=f"conv_blocks_{i}_up"
            )(x)  # fmt: skip
            for j in range(1, self.res_blocks + 1):
                x = res_block(self.remat)(self.num_groups, **types, name=f"conv_blocks_{i}_res{j}")(x)
        return conv3(1, self.dtype, self.param_dtype, "conv_last")(x).astype(jnp.float32)


class VQGAN3D(nn.Module):
    """Implement the published 3D VQGAN.

    Collections: ``params``, and ``codebook`` with ``embeddings``, ``N`` and ``z_avg`` (see ``codebook.py``), which no
    method here changes: the training loss returns the updated one.

    Attributes:
      n_hiddens: channels at full size; doubled at every level.
      downsample: reduction along D, H, W, powers of two.
      embedding_dim: channels c of the latent.
      n_codes: entries of the codebook.
      num_groups: of the group norms; divides ``2 n_hiddens``.
      decoder_res_blocks: residual blocks a level in the decoder.
      remat: compute residual blocks again in the backward pass instead of storing their intermediate values.
    """

    n_hiddens: int = 16
    downsample: Triple = (4, 4, 4)
    embedding_dim: int = 8
    n_codes: int = 16384
    num_groups: int = 32
    decoder_res_blocks: int = 2
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kept = types | {"remat": self.remat}
        width = self.n_hiddens * 2 ** len(level_strides(self.downsample))
        self.encoder = Encoder(self.n_hiddens, self.downsample, self.num_groups, **kept)
        self.decoder = Decoder(self.n_hiddens, self.downsample, self.num_groups, self.decoder_res_blocks, **kept)
        self.pre_vq_conv = Conv(self.embedding_dim, (1, 1, 1), **types)
        self.post_vq_conv = Conv(width, (1, 1, 1), **types)
        shape = (self.n_codes, self.embedding_dim)
        self.embeddings = self.variable(
            "codebook", "embeddings", lambda: jax.random.normal(self.make_rng("params"), shape)
        )
        self.used = self.variable("codebook", "N", jnp.zeros, (self.n_codes,))
        self.z_avg = self.variable("codebook", "z_avg", lambda: jnp.copy(self.embeddings.value))

    def encode(self, x: Volumes) -> Latent:
        """Return the latent before quantisation, float32."""
        return self.pre_vq_conv(self.encoder(x)).astype(jnp.float32)

    def quantize(self, h: Latent) -> tuple[Latent, Codes]:
        """Return the nearest codes and their numbers."""
        table = self.embeddings.value
        indices = codebook.nearest(table, jax.lax.stop_gradient(h).reshape(len(h), -1, h.shape[-1]))
        return table[indices].reshape(h.shape), indices.reshape(h.shape[:-1])

    def decode(self, embeddings: Latent) -> Volumes:
        """Return a volume from codes, or from any latent."""
        return self.decoder(self.post_vq_conv(embeddings))

    def __call__(self, x: Volumes) -> Reconstruction:
        """Reconstruct volumes through the codes; gradients pass the quantisation unchanged."""
        h = self.encode(x)
        embeddings, indices = self.quantize(h)
        volume = self.decode(straight_through(h, embeddings))
        return Reconstruction(volume, h, embeddings, indices)


def straight_through(latent: Float[Array, "*n c"], embeddings: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    """Return the codes, with gradients as if they were the latent (van den Oord et al. 2017, Section 3.2)."""
    return latent + jax.lax.stop_gradient(embeddings - latent)


def commitment(latent: Float[Array, "*n c"], embeddings: Float[Array, "*n c"]) -> Array:
    """Return the mean squared distance of the latent from its codes; its gradient moves the latent alone."""
    return jnp.mean((latent - jax.lax.stop_gradient(embeddings)) ** 2)
