"""Map the zip file of a checkpoint, and view tensors in place.

    checkpoint.pt (a zip file)
      .../data.pkl       the pickle: see ``pickled.py``
      .../byteorder      "little" or "big"; absent before PyTorch 2.1
      .../data/<name>    one storage: raw numbers, uncompressed

A zip file states everything twice, in its directory and before each member. A file whose two statements differ, or
whose members share bytes or names, is refused: what was checked must be what is read.
"""

import math
import mmap
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from dvg_jax.errors import UserError
from dvg_jax.torch_import.wording import quoted

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

_MOST_DIRECTORY = 2**23
"""The zip directory has so many bytes at most: some 80,000 members, one a tensor. In memory it takes ten times that."""
MOST_AXES = 32
_LOCAL = struct.Struct("<4s2xHH4xIIIHH")
"""Before each member stand mark, flags, compression, checksum, size twice, lengths of its name and of the padding."""
_ENCRYPTED, _SIZES_FOLLOW = 1, 8
_IN_EXTRA = 0xFFFFFFFF
"""Stands for a size beyond 4 GiB, which the extra field and the directory have."""


class Member(NamedTuple):
    """Hold the place of a member's bytes, and their checksum."""

    start: int
    size: int
    checksum: int


class Storage(NamedTuple):
    """Hold a storage's bits as unsigned numbers, 1-D, read-only and in this machine's byte order, and their type."""

    bits: np.ndarray
    dtype: np.dtype


class Archive:
    """Map the zip file. Its members are stored uncompressed, and each is checked against its checksum when read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storages: dict[str, Storage] = {}
        with path.open("rb") as file:
            self._check_format(file.read(4))
            with zipfile.ZipFile(_Bounded(file, path)) as directory:
                members = directory.infolist()
            self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.members = self._located(members)
        roots = [name.removesuffix("data.pkl") for name in self.members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError(f"checkpoint {path}: {len(roots)} members are named data.pkl; allowed: exactly 1")
        self.root = roots[0]
        # PyTorch before 2.1 writes no such member, and was not run on big-endian machines.
        order = self.member("byteorder") if f"{self.root}byteorder" in self.members else b"little"
        if order not in (b"little", b"big"):
            raise UserError(f"checkpoint {path}: byteorder is {quoted(bytes(order[:9]))}; allowed: little, big")
        self.order = ">" if order == b"big" else "<"

    def member(self, name: str) -> memoryview:
        """Return the bytes of one member, in place. Raises UserError where it is missing or damaged."""
        found = self.members.get(self.root + name)
        if found is None:
            raise UserError(f"checkpoint {self.path}: damaged, member {quoted(name)} is missing; allowed: a whole file")
        content = self.data[found.start : found.start + found.size]
        if zlib.crc32(content) != found.checksum:
            raise UserError(
                f"checkpoint {self.path}: damaged, member {quoted(name)} does not match its checksum; allowed: a whole "
                "file"
            )
        return content

    def storage(self, kind: str, name: str, count: int) -> Storage:
        """Return a storage, which is read and checked once.

        Args:
          kind: key of ``STORAGES``.
          name: of the member in ``data/``.
          count: numbers that it is said to hold.

        Raises:
          UserError: it is missing or damaged, has another size, or was used before with another type.
        """
        dtype = STORAGES[kind]
        if name not in self.storages:
            content = self.member(f"data/{name}")
            if len(content) != count * dtype.itemsize:
                raise UserError(
                    f"checkpoint {self.path}: damaged, storage {quoted(name)} has {len(content)} bytes; allowed: "
                    f"{quoted(count)} numbers of {dtype.itemsize}"
                )
            stored = np.frombuffer(content, f"{self.order}u{dtype.itemsize}")
            bits = stored.astype(stored.dtype.newbyteorder("="), copy=False)
            bits.flags.writeable = False
            self.storages[name] = Storage(bits, dtype)
        found = self.storages[name]
        if (found.dtype, len(found.bits)) != (dtype, count):
            raise UserError(
                f"checkpoint {self.path}: damaged, storage {quoted(name)} is {len(found.bits)} of {found.dtype} and "
                f"{quoted(count)} of {dtype}; allowed: one of them"
            )
        return found

    def tensor(self, storage: Storage, offset: Any, shape: Any, strides: Any) -> np.ndarray:
        """Return a tensor as a view of its storage.

        Args:
          storage: of :meth:`storage`.
          offset: place of the first number.
          shape: numbers along each axis, a tuple.
          strides: steps in numbers along each axis, a tuple.

        Raises:
          UserError: the layout reaches outside the storage, or repeats its numbers.
        """
        if fault := _wrong_layout(len(storage.bits), offset, shape, strides):
            raise UserError(f"checkpoint {self.path}: damaged, a tensor {fault}; allowed: a layout inside its storage")
        if not all(shape):
            return np.empty(shape, storage.dtype)
        size = storage.bits.itemsize
        steps = tuple(size * step for step in strides)
        return np.ndarray(shape, storage.bits.dtype, storage.bits.data, size * offset, steps).view(storage.dtype)

    def _check_format(self, head: bytes) -> None:
        if head.startswith(b"\x80"):
            raise UserError(
                f"checkpoint {self.path}: in PyTorch's format before 1.6; allowed: that of 1.6 and later "
                "(load it with PyTorch and save it again)"
            )
        if head != b"PK\x03\x04":
            raise UserError(f"checkpoint {self.path}: not a PyTorch file; allowed: zip files of torch.save")

    def _located(self, members: list[zipfile.ZipInfo]) -> dict[str, Member]:
        """Return the members by name, after both statements of each were compared."""
        located: dict[str, Member] = {}
        end = 0
        for info in sorted(members, key=lambda info: info.header_offset):
            member = self._member(info)
            if info.header_offset < end or info.orig_filename in located:
                raise UserError(
                    f"checkpoint {self.path}: member {quoted(info.orig_filename)} shares bytes or its name with "
                    "another; allowed: members apart"
                )
            located[info.orig_filename] = member
            end = member.start + member.size
        return located

    def _member(self, info: zipfile.ZipInfo) -> Member:
        name = quoted(info.orig_filename)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise UserError(f"checkpoint {self.path}: member {name} is compressed or encrypted; allowed: plain")
        mark, flags, kind, checksum, packed, size, name_size, more = _LOCAL.unpack_from(self.data, info.header_offset)
        name_start = info.header_offset + _LOCAL.size
        stated = bytes(self.data[name_start : name_start + name_size])
        start = name_start + name_size + more
        later = {0} if flags & _SIZES_FOLLOW else set()
        same = (
            mark == b"PK\x03\x04"
            and (flags & _ENCRYPTED, kind) == (0, info.compress_type)
            and stated.decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace") == info.orig_filename
            and checksum in {info.CRC, *later}
            and {packed, size} <= {info.file_size, _IN_EXTRA, *later}
        )
        if not same or info.compress_size != info.file_size or start + info.file_size > len(self.data):
            raise UserError(
                f"checkpoint {self.path}: damaged, member {name} is not what the zip directory says; allowed: a whole "
                "file"
            )
        return Member(start, info.file_size, info.CRC)


class _Bounded:
    """Pass a file to zipfile, which reads the directory at once, however long the file says it is."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        left = os.fstat(self.file.fileno()).st_size - self.file.tell()
        if min(size if size >= 0 else left, left) > _MOST_DIRECTORY:
            raise UserError(
                f"checkpoint {self.path}: a zip directory of more than {_MOST_DIRECTORY:,} bytes; allowed: up to that, "
                "some 80,000 tensors"
            )
        return self.file.read(size)


def _wrong_layout(count: int, offset: Any, shape: Any, strides: Any) -> str:
    """Return what is wrong with a tensor's layout in a storage of ``count`` numbers; empty for a good one."""
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > MOST_AXES:
        return f"has no shape and strides of equal length, up to {MOST_AXES}"
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        return "has a layout of other numbers than whole ones from 0"
    if math.prod(shape) > count:
        return "has more numbers than its storage"
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    return "reaches outside its storage" if all(shape) and last >= count else ""
