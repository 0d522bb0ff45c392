"""Convert a published ``Unet3D`` to :class:`UNet3D`."""

import re
from functools import cache

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from dvg_jax.errors import UserError
from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.shapes import Variables
from dvg_jax.torch_import.state_dict import Entry, Path, Shape, StateDict, convert, count_of, shape_of, without_module

ROTARY = ".rotary_emb.freqs"
UP = re.compile(r"ups_\d+_4")
LINEAR_ATTENTION = re.compile(r"(downs|ups)_\d+_2")


def unet3d(state_dict: StateDict, heads: int | None = None, copy: bool = True) -> tuple[UNet3D, Variables]:
    """Convert a published ``Unet3D`` to (UNet3D, variables in float32).

    Sizes follow from the shapes. DataParallel's ``module.`` is dropped, and so are the rotary frequencies, which are
    constants.

    Args:
      state_dict: flat {key: array}.
      heads: of the attention; if given, the shapes must agree.
      copy: copy the weights; otherwise the variables are NumPy views of the arrays.

    Raises:
      UserError: keys or shapes are not those of such a network.
    """
    arrays = {key: array for key, array in without_module(state_dict).items() if not key.endswith(ROTARY)}
    unet, channels = _measure(arrays, heads)
    return unet, {"params": convert("3D U-Net", arrays, _template(unet, channels), _entry, copy)}


@cache
def _template(unet: UNet3D, channels: int) -> dict[Path, jax.ShapeDtypeStruct]:
    factor = 2 ** (len(unet.dim_mults) - 1)
    x, t = (
        jax.ShapeDtypeStruct((1, 1, factor, factor, channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    return flatten_dict(jax.eval_shape(unet.init, jax.random.key(0), x, t)["params"])


def _measure(arrays: StateDict, heads: int | None) -> tuple[UNet3D, int]:
    """Return the network in its size, and its input channels."""
    table = shape_of("3D U-Net", arrays, "time_rel_pos_bias.relative_attention_bias.weight", 2)
    if heads is not None and heads != table[1]:
        raise UserError(f"heads is {heads}; allowed: {table[1]}, the width of the relative position bias")
    dim, channels = shape_of("3D U-Net", arrays, "init_conv.weight", 5)[:2]
    out_dim = shape_of("3D U-Net", arrays, "final_conv.1.weight", 5)[0]
    qkv = shape_of("3D U-Net", arrays, "init_temporal_attn.fn.fn.fn.to_qkv.weight", 2)[0]
    stages = count_of("3D U-Net", arrays, r"downs\.(\d+)\.")
    widths = [shape_of("3D U-Net", arrays, f"downs.{i}.0.block1.proj.weight", 5)[0] for i in range(stages)]
    if not widths or any(width % dim for width in widths):
        raise UserError(f"state dict's stage widths are {widths}; allowed: multiples of the first, {dim}")
    mults = tuple(width // dim for width in widths)
    return UNet3D(dim, mults, out_dim=out_dim, heads=table[1], head_dim=qkv // (3 * table[1])), channels


def _entry(path: Path, shape: Shape) -> Entry:
    """Map ("downs_0_2", "to_qkv", "kernel") to "downs.0.2.fn.fn.to_qkv.weight"."""
    *modules, leaf = path
    if modules[-1] in ("to_qkv", "to_out"):
        modules[-1:] = ["fn.fn" if LINEAR_ATTENTION.fullmatch(path[0]) else "fn.fn.fn", modules[-1]]
    elif leaf == "gamma":
        modules[-1:] = ["fn", modules[-1]]
        shape = (1, *shape, 1, 1, 1)
    if LINEAR_ATTENTION.fullmatch(path[0]) and leaf == "kernel":
        shape = (1, 1, *shape[-2:])
    name = re.sub(r"_(\d+)", r".\1", ".".join(modules))
    leaf = leaf if leaf in ("bias", "gamma") else "weight"
    return Entry.of(f"{name}.{leaf}", path, shape, transposed=bool(UP.fullmatch(path[0])))
