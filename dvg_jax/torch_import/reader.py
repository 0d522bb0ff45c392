"""Read PyTorch's checkpoint files without PyTorch, and without running any code that a file asks for.

    checkpoint.pt --archive.py--> data.pkl --pickled.py--> stand-ins --_Plain--> dicts, lists, tuples, arrays

A pickle may name any function and call it. Here names are looked up in a closed list of stand-ins: plain
containers, tensors, and inert placeholders for the classes that Lightning and omegaconf leave behind. Any other name
ends the reading before its call is reached.
"""

import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dvg_jax.errors import UserError
from dvg_jax.torch_import.archive import MOST_AXES, STORAGES, Archive, Storage
from dvg_jax.torch_import.pickled import Machine, Name, Placeholder
from dvg_jax.torch_import.wording import quoted

DICTS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}
SETS = {"builtins.set", "__builtin__.set"}
SIZE = "torch.Size"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETERS = {"torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"}
TYPES = {
    f"{module}.{kind.__name__}"
    for module in ("builtins", "__builtin__")
    for kind in (list, tuple, int, float, bool, str)
}
INERT_NAMES = {"typing.Any", "torch.device", "__builtin__.long", *STORAGES, *TYPES} | {
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
NAMES = {*DICTS, *SETS, SIZE, TENSOR, *PARAMETERS, *INERT_NAMES}
INERT_PACKAGES = re.compile(r"(omegaconf|pytorch_lightning|lightning_fabric|lightning)(\.[A-Za-z_]\w{0,99}){1,9}", re.A)
CALLED = {"torch.device"}
"""The only inert name outside the packages that is called."""

MOST_LEVELS = 100
"""No more containers are inside each other. Published files have 10."""
MALFORMED = (
    *(ArithmeticError, EOFError, LookupError, NotImplementedError, TypeError, ValueError),
    *(struct.error, zipfile.BadZipFile),
)


def load_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Read a ``.pt`` or Lightning ``.ckpt`` file, as ``torch.save`` of PyTorch 1.6 and later writes it.

    Returns:
      The saved object as nested dicts, lists and tuples. Tensors are read-only arrays over the mapped file (bfloat16
      by ml_dtypes), sets lists, omegaconf's containers plain dicts and lists, other objects ``Placeholder``.

    Raises:
      UserError: the file is damaged, of another format, beyond the limits of ``pickled.py``, or asks for a name
        outside the list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file; allowed: a file of torch.save")
    try:
        archive = Archive(path)
        calls = _Calls(archive)
        content = Machine(calls.find, calls.call, calls.load).run(archive.member("data.pkl"))
        return _Plain().convert(content)[0]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot be read ({error.strerror}); allowed: a whole file") from error
    except MALFORMED as error:
        raise UserError(
            f"checkpoint {path}: damaged or cut short, or not of torch.save ({quoted(error)}); allowed: a whole file"
        ) from error


class _Calls:
    """Answer a pickle's names, calls and storages by the closed list only."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.names: dict[str, Name] = {}

    def find(self, full: str) -> Name:
        """Return the stand-in for ``module.name``."""
        if full not in NAMES and not INERT_PACKAGES.fullmatch(full):
            raise UserError(
                f"refused: {self.archive.path} asks to call {quoted(full)}; allowed: tensors, plain containers, and "
                "settings of Lightning and omegaconf. Nothing was run"
            )
        return self.names.setdefault(full, Name(full))

    def load(self, record: Any) -> Storage:
        """Return the storage of a record ("storage", class, name, location, count)."""
        mark, storage, name, _, count = record if type(record) is tuple else ()
        whole = type(name) is str and type(count) is int and count >= 0
        if mark != "storage" or type(storage) is not Name or storage.kind not in STORAGES or not whole:
            raise ValueError("a storage without type, name and count")
        return self.archive.storage(storage.kind, name, count)

    def call(self, function: Name, arguments: tuple[Any, ...]) -> Any:
        """Return what a call would give; containers take what PyTorch's pickles give them, and no more."""
        kind = function.kind
        if kind == TENSOR:
            storage, offset, shape, strides = arguments[:4]
            if type(storage) is Storage:
                return self.archive.tensor(storage, offset, shape, strides)
        if kind in PARAMETERS and arguments and type(arguments[0]) is np.ndarray:
            return arguments[0]
        if kind in DICTS and (not arguments or (len(arguments) == 1 and type(arguments[0]) is Name)):
            return {}
        if kind in SETS and len(arguments) == 1 and type(arguments[0]) is list:
            return arguments[0]
        if kind == SIZE and len(arguments) == 1 and _is_size(arguments[0]):
            return arguments[0]
        if kind in CALLED or INERT_PACKAGES.fullmatch(kind):
            return Placeholder(kind, arguments)
        raise ValueError(f"a call of {kind} with other arguments than PyTorch's")


def _is_size(value: Any) -> bool:
    return type(value) is tuple and len(value) <= MOST_AXES and all(type(number) is int for number in value)


class _Plain:
    """Convert the content of a pickle to plain containers and arrays; shared objects stay shared."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, int]] = {}

    def convert(self, value: Any, depth: int = 0) -> tuple[Any, int]:
        """Return the converted value, and how many containers are inside each other in it."""
        if not isinstance(value, dict | list | tuple | Placeholder):
            return value, 0
        if not isinstance(value, Placeholder) and not value:
            return value, 1
        if depth > MOST_LEVELS:
            raise ValueError(f"containers inside each other, more than {MOST_LEVELS} levels, or inside themselves")
        if id(value) not in self.done:
            self.done[id(value)] = self._convert(value, depth + 1)
        return self.done[id(value)]

    def _convert(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, Placeholder):
            return self._settings(value, depth)
        keys = list(value) if isinstance(value, dict) else []
        found = [self.convert(item, depth) for item in (value.values() if keys else value)]
        levels = 1 + max((level for _, level in found), default=0)
        if levels > MOST_LEVELS:
            raise ValueError(f"containers inside each other, more than {MOST_LEVELS} levels")
        items = [item for item, _ in found]
        return (dict(zip(keys, items, strict=True)) if keys else type(value)(items)), levels

    def _settings(self, value: Placeholder, depth: int) -> tuple[Any, int]:
        """Return the content of a placeholder: omegaconf's ``_content`` or ``_val``, or the items set by Lightning."""
        if isinstance(value.state, dict):
            for field in ("_content", "_val"):
                if field in value.state:
                    return self.convert(value.state[field], depth)
        return self.convert(value.items, depth) if value.items else (value, 0)
