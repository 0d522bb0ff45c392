"""Flat PyTorch state dicts: where they lie in a published file, and what is wrong with one."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from dvg_jax.errors import UserError
from dvg_jax.torch_import.reader import load_checkpoint

StateDict = Mapping[str, np.ndarray]
Path = tuple[str, ...]
Shape = tuple[int, ...]

DVG_PARTS = ("fit_model", "fine_model", "vqgan", "vqgan_bp", "vqgan_bp025")


def load_dvg(path: str | os.PathLike[str], which: Literal["ema", "model"] = "ema") -> dict[str, dict[str, np.ndarray]]:
    """The published ``DVG_Diffusion.pt`` as one flat state dict for each of ``DVG_PARTS``.

    ``which`` picks the averaged weights, which the published sampler uses, or the trained ones.
    """
    if which not in ("ema", "model"):
        raise UserError(f"which is {which!r}; allowed: 'ema', 'model'")
    content = load_checkpoint(path)
    if not isinstance(content, dict) or not isinstance(content.get(which), dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path}: holds {found}; allowed: a dict with {which!r}, as in DVG_Diffusion.pt")
    return {part: subtree(content[which], part) for part in DVG_PARTS}


def subtree(state_dict: StateDict, prefix: str) -> dict[str, np.ndarray]:
    """The entries under ``prefix.``, named from there on."""
    start = f"{prefix}."
    found = {key.removeprefix(start): array for key, array in state_dict.items() if key.startswith(start)}
    if not found:
        roots = sorted({key.split(".")[0] for key in state_dict})
        raise UserError(f"state dict has nothing under {prefix!r}; allowed: {', '.join(roots)}")
    return found


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


def without_module(state_dict: StateDict) -> dict[str, np.ndarray]:
    """Without the ``module.`` that DataParallel puts before every name."""
    return {key.removeprefix("module."): array for key, array in state_dict.items()}


def shape_of(what: str, arrays: StateDict, key: str, ndim: int) -> Shape:
    """The shape of an entry that must be there; sizes are read off it."""
    if key not in arrays:
        raise UserError(f"state dict is not that of a {what}; missing: {key}")
    shape = tuple(arrays[key].shape)
    if len(shape) != ndim or 0 in shape:
        raise UserError(f"state dict's {key} has shape {shape}; allowed: {ndim} axes, none empty")
    return shape


class Entry(NamedTuple):
    """PyTorch's side of one of our arrays; a transposed kernel is (in, out, space), any other (out, in, space)."""

    name: str
    shape: Shape
    transposed: bool = False

    @classmethod
    def of(cls, name: str, path: Path, shape: Shape, transposed: bool = False) -> "Entry":
        """For our array of ``shape``, whose kernels are (space, in, out)."""
        if path[-1] == "kernel":
            *space, inputs, outputs = shape
            shape = (inputs, outputs, *space) if transposed else (outputs, inputs, *space)
        return cls(name, shape, transposed)


def convert(
    what: str, arrays: StateDict, template: Mapping[Path, Any], entry: Callable[[Path, Shape], Entry]
) -> dict[str, Any]:  # fmt: skip
    """Fill ``template`` (our path: anything with a shape) from PyTorch's entries, all of which must be used.

    Float32 copies, so that the file may go.
    """
    entries = {path: entry(path, ours.shape) for path, ours in template.items()}
    check_entries(what, arrays, {theirs.name: theirs.shape for theirs in entries.values()})
    filled = {}
    for path, ours in template.items():
        array = arrays[entries[path].name]
        if path[-1] == "kernel":
            array = np.moveaxis(array, (0, 1) if entries[path].transposed else (1, 0), (-2, -1))
        filled[path] = jnp.array(array.reshape(ours.shape), jnp.float32)
    return unflatten_dict(filled)
