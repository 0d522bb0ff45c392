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
    state_dict, _ = load_trainer(path, which)
    return {part: subtree(state_dict, part) for part in DVG_PARTS}


def load_trainer(path: str | os.PathLike[str], which: str) -> tuple[StateDict, int]:
    """The whole of ``which`` in a published ``DVG_Diffusion.pt``, and its training step, 0 where it is not told."""
    if which not in ("ema", "model"):
        raise UserError(f"which is {which!r}; allowed: 'ema', 'model'")
    content = load_checkpoint(path)
    state_dict = without_module(entry_of(path, content, which, "DVG_Diffusion.pt"))
    step = content.get("step")
    return state_dict, step if isinstance(step, int) else 0


def entry_of(path: str | os.PathLike[str], content: Any, name: str, like: str) -> dict[str, Any]:
    """The dict that a checkpoint's ``content`` has under ``name``, as in the published file ``like``."""
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path}: holds {found}; allowed: a dict with {name!r}, as in {like}")
    return content[name]


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
    what: str, arrays: StateDict, template: Mapping[Path, Any], entry: Callable[[Path, Shape], Entry], copy: bool = True
) -> dict[str, Any]:  # fmt: skip
    """Fill ``template`` (our path: anything with a shape) from PyTorch's entries, all of which must be used.

    Float32: JAX arrays, so that the file may go, or without ``copy`` NumPy arrays that look into it where they can.
    """
    entries = {path: entry(path, ours.shape) for path, ours in template.items()}
    check_entries(what, arrays, {theirs.name: theirs.shape for theirs in entries.values()})
    filled = {}
    for path, ours in template.items():
        array = arrays[entries[path].name]
        if path[-1] == "kernel":
            array = np.moveaxis(array, (0, 1) if entries[path].transposed else (1, 0), (-2, -1))
        array = array.reshape(ours.shape)
        filled[path] = jnp.array(array, jnp.float32) if copy else array.astype(np.float32, copy=False)
    return unflatten_dict(filled)
