"""Read PyTorch's checkpoint files without PyTorch, and without running any code that a file asks for.

    checkpoint.pt (a zip file)
      .../data.pkl       a pickle: containers, numbers, strings, and of each tensor its storage and layout
      .../data/<name>    one storage: raw numbers, mapped from the disk and viewed in place

A pickle may name any function and call it. Here names are looked up in a closed list of stand-ins: plain
containers, records of tensors, and inert placeholders for the classes that Lightning and omegaconf leave
behind. Any other name ends the reading before its call is reached.
"""

import io
import mmap
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dvg_jax.errors import UserError

STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
CONTAINERS: dict[str, type] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "torch.Size": tuple,
    "__builtin__.long": int,
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, int, float, bool, str)
    },
}
INERT_NAMES = {"typing.Any", "torch.device", *STORAGES} | {
    f"torch.{name}"
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    )
}
INERT_PACKAGES = ("omegaconf.", "pytorch_lightning.", "lightning_fabric.", "lightning.")
MALFORMED = (
    *(
        ArithmeticError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
    ),
    *(ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


class Placeholder:
    """Replace an object whose class is not loaded: store its arguments and do nothing."""

    kind = ""
    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *arguments: Any, **_: Any) -> "Placeholder":
        self = super().__new__(cls)
        self.arguments, self.state, self.items = arguments, {}, {}
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __repr__(self) -> str:
        return f"<{self.kind}, not loaded>"


class _Tensor(Placeholder):
    """Store (storage, offset, shape, strides, ...) from the pickle; ``_Archive.array`` checks them."""


class _Parameter(Placeholder):
    """Store a tensor wrapped by ``torch.nn.Parameter``: its first argument."""


TENSORS: dict[str, type[Placeholder]] = {
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": _Parameter,
    "torch.nn.parameter.Parameter": _Parameter,
}


def load_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Read a ``.pt`` or Lightning ``.ckpt`` file, as ``torch.save`` of PyTorch 1.6 and later writes it.

    Returns:
      The saved object as nested dicts, lists and tuples. Tensors are read-only arrays over the mapped file (bfloat16
      by ml_dtypes), omegaconf's containers plain dicts and lists, other objects ``Placeholder``.

    Raises:
      UserError: the file is damaged, of another format, or asks for a name outside the list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file; allowed: a file of torch.save")
    try:
        archive = _Archive(path)
        content = _Unpickler(path, archive.member("data.pkl")).load()
        return _Plain(archive).convert(content)
    except UserError:
        raise
    except MALFORMED as error:
        raise UserError(f"checkpoint {path}: damaged or cut short ({error}); allowed: a whole file") from error


class _Unpickler(pickle.Unpickler):
    """Resolve names by the closed list only."""

    def __init__(self, path: Path, data: memoryview) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.path = path
        self.placeholders: dict[str, type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> type:
        """Return the stand-in for ``module.name``."""
        full = f"{module}.{name}"
        if full in CONTAINERS:
            return CONTAINERS[full]
        if full not in TENSORS and full not in INERT_NAMES and not full.startswith(INERT_PACKAGES):
            raise UserError(
                f"refused: {self.path} asks to call {full}; allowed: tensors, plain containers, and settings "
                "of Lightning and omegaconf. Nothing was run"
            )
        if full not in self.placeholders:
            # A new class for each file, so that no change which the file makes to it outlives the reading.
            self.placeholders[full] = type(name, (TENSORS.get(full, Placeholder),), {"kind": full})
        return self.placeholders[full]

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage's record unchanged: ("storage", class, name, location, length)."""
        return pid


class _Archive:
    """Map the zip file. Its members are stored uncompressed, and each is checked against its checksum."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storages: dict[str, memoryview] = {}
        with path.open("rb") as file:
            self._check_format(file.read(4))
            with zipfile.ZipFile(file) as directory:
                self.members = {info.filename: info for info in directory.infolist()}
            self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        roots = [name.removesuffix("data.pkl") for name in self.members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError(f"checkpoint {path}: {len(roots)} members are named data.pkl; allowed: exactly 1")
        self.root = roots[0]
        # PyTorch before 2.1 writes no such member, and was not run on big-endian machines.
        big = f"{self.root}byteorder" in self.members and bytes(self.member("byteorder")) == b"big"
        self.order = ">" if big else "<"

    def member(self, name: str) -> memoryview:
        """Return the bytes of one member, in place."""
        info = self.members.get(self.root + name)
        if info is None:
            raise UserError(f"checkpoint {self.path}: damaged, member {name} is missing; allowed: a whole file")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(f"checkpoint {self.path}: member {name} is compressed; allowed: plain")
        # A local header takes 30 bytes, then the name and the padding, whose lengths are at byte 26.
        start = info.header_offset + 30 + sum(struct.unpack_from("<HH", self.data, info.header_offset + 26))
        content = self.data[start : start + info.file_size]
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise UserError(
                f"checkpoint {self.path}: damaged, member {name} does not match its checksum; allowed: a whole file"
            )
        return content

    def array(self, tensor: _Tensor) -> np.ndarray:
        """Return the tensor as a view of its storage; a copy where the byte order is not this machine's."""
        (_, storage, name, _, count), offset, shape, strides = tensor.arguments[:4]
        dtype = STORAGES[storage.kind]
        if name not in self.storages:
            self.storages[name] = self.member(f"data/{name}")
        size = dtype.itemsize
        raw = np.dtype(f"{self.order}u{size}")
        # NumPy itself refuses a layout that reaches outside the buffer.
        steps = tuple(size * step for step in strides)
        view = np.ndarray(shape, raw, self.storages[name][: size * count], size * offset, steps)
        return view.astype(raw.newbyteorder("="), copy=False).view(dtype)

    def _check_format(self, head: bytes) -> None:
        if head.startswith(b"\x80"):
            raise UserError(
                f"checkpoint {self.path}: in PyTorch's format before 1.6; allowed: that of 1.6 and later "
                "(load it with PyTorch and save it again)"
            )
        if head != b"PK\x03\x04":
            raise UserError(f"checkpoint {self.path}: not a PyTorch file; allowed: zip files of torch.save")


class _Plain:
    """Convert the content of a pickle to plain containers and arrays; shared objects stay shared."""

    def __init__(self, archive: _Archive) -> None:
        self.archive = archive
        self.done: dict[int, Any] = {}

    def convert(self, value: Any) -> Any:
        if id(value) not in self.done:
            self.done[id(value)] = self._convert(value)
        return self.done[id(value)]

    def _convert(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.convert(item) for key, item in dict.items(value)}
        if isinstance(value, list | tuple):
            return type(value)([self.convert(item) for item in value])
        if isinstance(value, _Tensor):
            return self.archive.array(value)
        if isinstance(value, _Parameter):
            return self.convert(value.arguments[0])
        if isinstance(value, Placeholder):
            return self._settings(value)
        return value

    def _settings(self, value: Placeholder) -> Any:
        """Return the content of a placeholder: omegaconf's ``_content`` or ``_val``, or the items set by Lightning."""
        if isinstance(value.state, dict):
            for field in ("_content", "_val"):
                if field in value.state:
                    return self.convert(value.state[field])
        return self.convert(value.items) if value.items else value
