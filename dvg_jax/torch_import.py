"""The published PyTorch weights as this library's variables, without PyTorch.

    DVG_Diffusion.pt --load_dvg--> fit_model   (G_z)                --unet3d-->  UNet3D, variables
                                   fine_model  (g_theta)            --unet3d-->  UNet3D, variables
                                   vqgan, vqgan_bp, vqgan_bp025     --vqgan3d--> VQGAN3D, variables
    A_VQGAN.ckpt --load_checkpoint--> ["state_dict"]                --vqgan3d--> VQGAN3D, variables

Widths are read off the shapes. A key that is unknown, missing or of another shape is reported by name.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dvg_jax.errors import UserError
from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.shapes import Variables
from dvg_jax.torch_reader import load_checkpoint
from dvg_jax.torch_vqgan import vqgan3d

__all__ = ["load_checkpoint", "load_dvg", "subtree", "unet3d", "vqgan3d"]

StateDict = Mapping[str, np.ndarray]
Path = tuple[str, ...]

DVG_PARTS = ("fit_model", "fine_model", "vqgan", "vqgan_bp", "vqgan_bp025")
ROTARY = ".rotary_emb.freqs"
UP = re.compile(r"ups_\d+_4")
LINEAR_ATTENTION = re.compile(r"(downs|ups)_\d+_2")


def load_dvg(
    path: str | os.PathLike[str], which: Literal["ema", "model"] = "ema"
) -> dict[str, dict[str, np.ndarray]]:
    """The published ``DVG_Diffusion.pt`` as one flat state dict for each of ``DVG_PARTS``.

    ``which`` picks the averaged weights, which the published sampler uses, or the trained ones.
    """
    if which not in ("ema", "model"):
        raise UserError(f"which is {which!r}; allowed: 'ema', 'model'")
    content = load_checkpoint(path)
    if not isinstance(content, dict) or not isinstance(content.get(which), dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"checkpoint {path}: holds {found}; allowed: a dict with {which!r}, as in DVG_Diffusion.pt"
        )
    return {part: subtree(content[which], part) for part in DVG_PARTS}


def subtree(state_dict: StateDict, prefix: str) -> dict[str, np.ndarray]:
    """The entries under ``prefix.``, named from there on."""
    start = f"{prefix}."
    found = {key.removeprefix(start): array for key, array in state_dict.items() if key.startswith(start)}
    if not found:
        roots = sorted({key.split(".")[0] for key in state_dict})
        raise UserError(f"state dict has nothing under {prefix!r}; allowed: {', '.join(roots)}")
    return found


def unet3d(state_dict: StateDict, heads: int | None = None) -> tuple[UNet3D, Variables]:
    """A published ``Unet3D``'s flat {key: array} -> (UNet3D, variables in float32).

    Sizes are read off the shapes; ``heads``, if given, must agree. DataParallel's ``module.`` is dropped, and
    so are the rotary frequencies, which are constants.
    """
    arrays = {key.removeprefix("module."): array for key, array in state_dict.items()}
    arrays = {key: array for key, array in arrays.items() if not key.endswith(ROTARY)}
    unet, channels = _measure(arrays, heads)
    factor = 2 ** (len(unet.dim_mults) - 1)
    x, t = (
        jax.ShapeDtypeStruct((1, 1, factor, factor, channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    template = flatten_dict(jax.eval_shape(unet.init, jax.random.key(0), x, t)["params"])
    names = {path: _torch_name(path) for path in template}
    check_entries("3D U-Net", arrays, {names[p]: _torch_shape(p, s.shape) for p, s in template.items()})
    params = {path: _from_torch(path, arrays[names[path]], shape.shape) for path, shape in template.items()}
    return unet, {"params": unflatten_dict(params)}


def check_entries(what: str, arrays: StateDict, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """``UserError`` that lists every unknown, missing and mis-shaped key, if there is one."""
    unknown = [key for key in arrays if key not in shapes]
    missing = [key for key in shapes if key not in arrays]
    reshaped = [
        f"{key} {tuple(arrays[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in arrays and tuple(arrays[key].shape) != shape
    ]
    groups = {"unknown": unknown, "missing": missing, "of another shape": reshaped}
    faults = [f"{name}: {', '.join(keys)}" for name, keys in groups.items() if keys]
    if faults:
        raise UserError(f"state dict is not that of a {what}; {'; '.join(faults)}")


def _measure(arrays: StateDict, heads: int | None) -> tuple[UNet3D, int]:
    """The network's sizes and its input channels."""
    table = _shape(arrays, "time_rel_pos_bias.relative_attention_bias.weight", 2)
    if heads is not None and heads != table[1]:
        raise UserError(f"heads is {heads}; allowed: {table[1]}, the width of the relative position bias")
    dim, channels = _shape(arrays, "init_conv.weight", 5)[:2]
    out_dim = _shape(arrays, "final_conv.1.weight", 5)[0]
    qkv = _shape(arrays, "init_temporal_attn.fn.fn.fn.to_qkv.weight", 2)[0]
    stages = {int(match[1]) for key in arrays if (match := re.match(r"downs\.(\d+)\.", key))}
    widths = [_shape(arrays, f"downs.{i}.0.block1.proj.weight", 5)[0] for i in range(len(stages))]
    if not widths or any(width % dim for width in widths):
        raise UserError(f"state dict's stage widths are {widths}; allowed: multiples of the first, {dim}")
    mults = tuple(width // dim for width in widths)
    return UNet3D(dim, mults, out_dim=out_dim, heads=table[1], head_dim=qkv // (3 * table[1])), channels


def _shape(arrays: StateDict, key: str, ndim: int) -> tuple[int, ...]:
    if key not in arrays:
        raise UserError(f"state dict is not that of a 3D U-Net; missing: {key}")
    shape = tuple(arrays[key].shape)
    if len(shape) != ndim or 0 in shape:
        raise UserError(f"state dict's {key} has shape {shape}; allowed: {ndim} axes, none empty")
    return shape


def _torch_name(path: Path) -> str:
    """("downs_0_2", "to_qkv", "kernel") -> "downs.0.2.fn.fn.to_qkv.weight"."""
    *modules, leaf = path
    if modules[-1] in ("to_qkv", "to_out"):
        modules[-1:] = ["fn.fn" if LINEAR_ATTENTION.fullmatch(path[0]) else "fn.fn.fn", modules[-1]]
    elif leaf == "gamma":
        modules[-1:] = ["fn", modules[-1]]
    name = re.sub(r"_(\d+)", r".\1", ".".join(modules))
    return f"{name}.{leaf if leaf in ('bias', 'gamma') else 'weight'}"


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if path[-1] == "gamma":
        return 1, *shape, 1, 1, 1
    if path[-1] != "kernel":
        return shape
    *space, inputs, outputs = shape
    if LINEAR_ATTENTION.fullmatch(path[0]):
        space = [1, 1]
    return (inputs, outputs, *space) if UP.fullmatch(path[0]) else (outputs, inputs, *space)


def _from_torch(path: Path, array: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Kernels to (space, in, out), gains to (C,); a copy, so that the file may go."""
    if path[-1] == "kernel":
        swapped = array if UP.fullmatch(path[0]) else np.swapaxes(array, 0, 1)
        array = np.moveaxis(swapped, (0, 1), (-2, -1))
    return jnp.array(array.reshape(shape), jnp.float32)
