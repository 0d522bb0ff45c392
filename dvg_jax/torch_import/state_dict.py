"""Find flat PyTorch state dicts in a published file, and report what is wrong with one."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from dvg_jax.errors import UserError
from dvg_jax.torch_import.reader import load_checkpoint
from dvg_jax.torch_import.wording import listed_quoted, quoted

StateDict = Mapping[str, np.ndarray]
Path = tuple[str, ...]
Shape = tuple[int, ...]

MOST_PARTS = 8
MOST_AXIS = 2**20
"""They bound stages of a network and axes of a weight: a network is built from both before keys are compared."""

DVG_PARTS = ("fit_model", "fine_model", "vqgan", "vqgan_bp", "vqgan_bp025")


def load_dvg(path: str | os.PathLike[str], which: Literal["ema", "model"] = "ema") -> dict[str, dict[str, np.ndarray]]:
    """Read the published ``DVG_Diffusion.pt`` as one flat state dict for each of ``DVG_PARTS``.

    ``which`` picks the averaged weights, which the published sampler uses, or the trained ones.
    """
    state_dict, _ = load_trainer(path, which)
    return {part: subtree(state_dict, part) for part in DVG_PARTS}


def load_trainer(path: str | os.PathLike[str], which: str) -> tuple[StateDict, int]:
    """Read the whole of ``which`` in a published ``DVG_Diffusion.pt``, and its training step, 0 where it has none."""
    if which not in ("ema", "model"):
        raise UserError(f"which is {which!r}; allowed: 'ema', 'model'")
    content = load_checkpoint(path)
    state_dict = without_module(weights_of(path, content, which, "DVG_Diffusion.pt"))
    step = content.get("step")
    return state_dict, step if isinstance(step, int) else 0


def weights_of(path: str | os.PathLike[str], content: Any, name: str, like: str) -> StateDict:
    """Return the state dict that a checkpoint has under a name.

    Args:
      path: of the file, for the message.
      content: of the checkpoint.
      name: of the state dict.
      like: a published file that has such an entry, for the message.

    Raises:
      UserError: there is no such dict, or it has entries that are no named arrays.
    """
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        found = listed_quoted(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path}: holds {found}; allowed: a dict with {name!r}, as in {like}")
    for key, array in content[name].items():
        if not isinstance(key, str) or not isinstance(array, np.ndarray):
            raise UserError(
                f"checkpoint {path}: {quoted(key)} of {name} is {type(array).__name__}; allowed: tensors with names"
            )
    return content[name]


def subtree(state_dict: StateDict, prefix: str) -> dict[str, np.ndarray]:
    """Return the entries under ``prefix.``, without that prefix."""
    start = f"{prefix}."
    found = {key.removeprefix(start): array for key, array in state_dict.items() if key.startswith(start)}
    if not found:
        roots = sorted({key.split(".")[0] for key in state_dict})
        raise UserError(f"state dict has nothing under {prefix!r}; allowed: {listed_quoted(roots)}")
    return found


def check_entries(what: str, arrays: StateDict, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a state dict has all entries and no others.

    Args:
      what: the network, for the message.
      arrays: the state dict.
      shapes: the expected shape of each key.

    Raises:
      UserError: lists the keys that are unknown, missing or of another shape.
    """
    unknown = [key for key in arrays if key not in shapes]
    missing = [key for key in shapes if key not in arrays]
    reshaped = [
        f"{quoted(key)} {tuple(arrays[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in arrays and tuple(arrays[key].shape) != shape
    ]
    groups = {"unknown": unknown, "missing": missing, "of another shape": reshaped}
    faults = [f"{name}: {listed_quoted(keys)}" for name, keys in groups.items() if keys]
    if faults:
        raise UserError(f"state dict is not that of a {what}; {'; '.join(faults)}")


def without_module(state_dict: StateDict) -> dict[str, np.ndarray]:
    """Remove the ``module.`` that DataParallel puts before every name."""
    return {key.removeprefix("module."): array for key, array in state_dict.items()}


def shape_of(what: str, arrays: StateDict, key: str, ndim: int) -> Shape:
    """Return the shape of a required entry, from which sizes follow.

    Args:
      what: the network, for the message.
      arrays: the state dict.
      key: of the entry.
      ndim: its number of axes.

    Raises:
      UserError: it is missing, or has other, empty or endless axes.
    """
    if key not in arrays:
        raise UserError(f"state dict is not that of a {what}; missing: {key}")
    shape = tuple(arrays[key].shape)
    if len(shape) != ndim or not all(1 <= n <= MOST_AXIS for n in shape):
        raise UserError(f"state dict's {quoted(key)} has shape {shape}; allowed: {ndim} axes of 1 to {MOST_AXIS:,}")
    return shape


def count_of(what: str, arrays: StateDict, pattern: str) -> int:
    """Return how many stages or blocks a network has.

    Args:
      what: the network, for the message.
      arrays: the state dict.
      pattern: matches the start of a part's keys; its group is the part's number.

    Raises:
      UserError: it has more than any network would.
    """
    found = len({match[1] for key in arrays if (match := re.match(pattern, key))})
    if found > MOST_PARTS:
        raise UserError(
            f"state dict is not that of a {what}; {found} parts like {pattern}, allowed: up to {MOST_PARTS}"
        )
    return found


class Entry(NamedTuple):
    """Describe PyTorch's entry for one of our arrays.

    A transposed kernel is (in, out, space), any other (out, in, space).
    """

    name: str
    shape: Shape
    transposed: bool = False

    @classmethod
    def of(cls, name: str, path: Path, shape: Shape, transposed: bool = False) -> "Entry":
        """Return the entry for our array, whose kernels are (space, in, out).

        Args:
          name: PyTorch's key.
          path: of our array.
          shape: of our array.
          transposed: it is the kernel of a transposed convolution.
        """
        if path[-1] == "kernel":
            *space, inputs, outputs = shape
            shape = (inputs, outputs, *space) if transposed else (outputs, inputs, *space)
        return cls(name, shape, transposed)


def convert(
    what: str, arrays: StateDict, template: Mapping[Path, Any], entry: Callable[[Path, Shape], Entry], copy: bool = True
) -> dict[str, Any]:  # fmt: skip
    """Fill a template from PyTorch's entries, all of which must be used; the result is float32.

    Args:
      what: the network, for the message.
      arrays: the state dict.
      template: our path to anything with a shape.
      entry: (our path, our shape) -> PyTorch's side.
      copy: return JAX arrays, so that the file may go; otherwise NumPy arrays, views of the file where possible.

    Raises:
      UserError: keys are unknown, missing or of another shape.
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
