"""Hostile PyTorch files: each must be refused in one line, within seconds and in bounded memory.

A file is named for its trick, and made of the opcodes of its pickle or of the bytes of its zip.
"""

import io
import pickle as p
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import Result
from tests.chaos.children import REFUSED, Children

MEGABYTES = 250
"""Each file may take so much memory: 200 MB, and what a started child takes itself."""
NUMBERS = struct.pack("<6f", *range(6))
"""The storage ``data/0``: six float32."""
MANY = 999_000


def name(full: str) -> bytes:
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(16, "little", signed=True)
    return p.LONG1 + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return p.MARK + b"".join(map(number, values)) + p.TUPLE


def storage(kind: str = "torch.FloatStorage", key: bytes | None = None, count: bytes | None = None) -> bytes:
    parts = text("storage"), name(kind), key or text("0"), text("cpu"), count or number(6)
    return p.MARK + b"".join(parts) + p.TUPLE + p.BINPERSID


def tensor(
    shape: bytes = numbers(6), strides: bytes = numbers(1), offset: bytes = number(0), of: bytes | None = None
) -> bytes:
    arguments = (of or storage()) + offset + shape + strides + p.NEWTRUE + p.EMPTY_DICT
    return name("torch._utils._rebuild_tensor_v2") + p.MARK + arguments + p.TUPLE + p.REDUCE


def laughing(start: bytes, end: bytes, levels: int = 60) -> bytes:
    """A container of two references to one of two references, and so on; left on the stack, and the last in memo 60."""
    steps = (start + (p.BINGET + bytes([level])) * 2 + end + p.BINPUT + bytes([level + 1]) for level in range(levels))
    return text("ha") + p.BINPUT + b"\0" + b"".join(steps)


def itself(then: bytes = b"") -> bytes:
    """A list that contains itself."""
    return p.EMPTY_LIST + p.BINPUT + b"\0" + p.BINGET + b"\0" + p.APPEND + then


def entry(key: str, value: bytes) -> bytes:
    return p.EMPTY_DICT + text(key) + value + p.SETITEM


def call(full: str, *arguments: bytes) -> bytes:
    return name(full) + p.MARK + b"".join(arguments) + p.TUPLE + p.REDUCE


LAUGHING_TUPLE, LAUGHING_LIST = laughing(p.MARK, p.TUPLE), laughing(p.EMPTY_LIST + p.MARK, p.APPENDS)
LAST = p.BINGET + bytes([60])
SETTINGS = name("omegaconf.dictconfig.DictConfig") + p.EMPTY_TUPLE + p.NEWOBJ
PICKLES: dict[str, bytes] = {
    "deep lists": p.EMPTY_LIST * MANY + p.APPEND * 10,
    "deep lists, closed": p.EMPTY_LIST * 40_000 + p.APPEND * 39_999,
    "deep tuples": p.NONE + p.TUPLE1 * MANY,
    "deep dicts": (p.EMPTY_DICT + text("a")) * 10_000 + p.EMPTY_DICT + p.SETITEM * 10_000,
    "deep by reference": p.EMPTY_LIST + p.MARK + p.NONE + b"".join(
        p.EMPTY_LIST + p.LONG_BINPUT + struct.pack("<I", n) + b"j" + struct.pack("<I", max(0, n - 1)) + p.APPEND
        for n in range(5_000)) + p.APPENDS,
    "deep settings": (SETTINGS + p.EMPTY_DICT + text("_content")) * 5_000 + p.NONE + (p.SETITEM + p.BUILD) * 5_000,
    "list in itself": itself(),
    "dict in itself": p.EMPTY_DICT + p.BINPUT + b"\0" + text("a") + p.BINGET + b"\0" + p.SETITEM,
    "settings in themselves": SETTINGS + p.BINPUT + b"\0" + entry("_content", p.BINGET + b"\0") + p.BUILD,
    "items in themselves": SETTINGS + p.BINPUT + b"\0" + text("a") + p.BINGET + b"\0" + p.SETITEM,
    "tuple as key": p.EMPTY_DICT + numbers(1, 2) + p.NONE + p.SETITEM,
    "deep tuple as key": p.EMPTY_DICT + p.NONE + p.TUPLE1 * 100_000 + p.NONE + p.SETITEM,
    "laughing tuple as key": LAUGHING_TUPLE + p.EMPTY_DICT + LAST + p.NONE + p.SETITEM,
    "list as key": p.EMPTY_DICT + p.EMPTY_LIST + p.NONE + p.SETITEM,
    "tensor as key": p.EMPTY_DICT + tensor() + p.NONE + p.SETITEM,
    "settings as key": p.EMPTY_DICT + SETTINGS + p.NONE + p.SETITEM,
    "laughing list as str": LAUGHING_LIST + call("builtins.str", LAST),
    "laughing list as name of a storage": LAUGHING_LIST + storage(key=LAST),
    "laughing list as shape": LAUGHING_LIST + tensor(shape=LAST),
    "itself as str": call("builtins.str", itself()),
    "itself as int": call("builtins.int", itself()),
    "itself as float": call("__builtin__.float", itself()),
    "itself as list": call("builtins.list", itself()),
    "itself as tuple": call("builtins.tuple", itself()),
    "itself as set": call("builtins.set", itself()),
    "settings as bool": call("builtins.bool", SETTINGS),
    "settings as dict": call("builtins.dict", SETTINGS),
    "digits as int": call("builtins.int", text("9" * 10**6)),
    "set of deep tuples": p.EMPTY_SET + p.MARK + p.NONE + p.TUPLE1 * 100_000 + p.ADDITEMS,
    "size of itself": call("torch.Size", itself()),
    "size of strings": call("torch.Size", p.MARK + text("a") * 3 + p.TUPLE),
    "dict of a list": call("collections.OrderedDict", p.EMPTY_LIST),
    "default of a call": call("collections.defaultdict", SETTINGS),
    "call of settings": SETTINGS + p.EMPTY_TUPLE + p.REDUCE,
    "call with a list": name("torch.Size") + p.EMPTY_LIST + p.REDUCE,
    "state of a list": p.EMPTY_LIST + p.EMPTY_DICT + p.BUILD,
    "state that is no dict": p.EMPTY_DICT + number(1) + p.BUILD,
    "state of a tensor": tensor() + p.EMPTY_DICT + p.BUILD,
    "state of a class": name("omegaconf.X") + p.EMPTY_DICT + p.BUILD,
    "items of a list": p.EMPTY_LIST + number(0) + p.NONE + p.SETITEM,
    "items of a tensor": tensor() + number(0) + p.NONE + p.SETITEM,
    "odd items": p.EMPTY_DICT + p.MARK + p.NONE * 3 + p.SETITEMS,
    "long name": name("omegaconf." + "x" * 10**6),
    "name with an escape": name("omegaconf.\x1b[31mred"),
    "name with a line": b"\x8c\x09omegaconf" + b"\x8c\x05a\nb\rc" + b"\x93",
    "number of megabytes": p.LONG4 + struct.pack("<I", 10**7) + b"\x7f" * 10**7,
    "number in digits": b"L" + b"9" * 10**6 + b"L\n",
    "memo far away": p.NONE + p.LONG_BINPUT + struct.pack("<I", 2**32 - 1) + p.POP,
    "memo of nothing": p.BINGET + b"\7",
    "a million memos": p.NONE + p.MEMOIZE * 2 * MANY,
    "a million copies": p.NONE + p.DUP * 10**7,
    "a million marks": p.MARK * 2 * MANY,
    "a million extensions": (b"\x82\1") * 10**6,
    "a million placeholders": name("omegaconf.X") + p.BINPUT + b"\0"
    + (p.BINGET + b"\0" + p.EMPTY_TUPLE + p.NEWOBJ) * 400_000,
    "a million sets": p.EMPTY_LIST + p.MARK + p.EMPTY_SET * 2 * MANY + p.APPENDS,
    "too many bytes": text("x" * 2**25),
    "below the mark": p.NONE + p.NONE + p.MARK + p.TUPLE2,
    "nothing at all": b"",
    "two results": p.NONE + p.NONE,
    "frame longer than the file": p.FRAME + struct.pack("<Q", 2**62) + p.NONE,
    "string longer than the file": b"X" + struct.pack("<I", 2**32 - 1) + b"abc",
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 2**63 - 1) + b"abc",
    "negative string": b"T" + struct.pack("<i", -5) + b"abc",
    "strides of zero": tensor(numbers(2**20, 2**20), numbers(0, 0)),
    "strides of zero, small": tensor(numbers(7), numbers(0)),
    "strides below zero": tensor(numbers(2), numbers(-1), number(5)),
    "strides beyond 64 bits": tensor(numbers(2), numbers(2**64 + 1)),
    "shape beyond 64 bits": tensor(numbers(2**62, 2**62, 4), numbers(1, 1, 1)),
    "empty shape beyond 64 bits": tensor(numbers(0, 2**62, 2**62), numbers(1, 1, 1)),
    "shape below zero": tensor(numbers(-2, -3), numbers(3, 1)),
    "shape of booleans": tensor(p.NEWTRUE + p.TUPLE1),
    "shape of a thousand axes": tensor(numbers(*[1] * 1000), numbers(*[1] * 1000)),
    "shape without strides": tensor(strides=p.EMPTY_TUPLE),
    "shape that is a list": tensor(shape=p.EMPTY_LIST + number(6) + p.APPEND),
    "offset outside": tensor(numbers(2), offset=number(5)),
    "offset below zero": tensor(offset=number(-1)),
    "offset beyond 64 bits": tensor(numbers(1), offset=number(2**70)),
    "count below zero": tensor(of=storage(count=number(-6))),
    "count beyond 64 bits": tensor(of=storage(count=number(2**70))),
    "count of another size": tensor(of=storage(count=number(5))),
    "count that is true": tensor(of=storage(count=p.NEWTRUE)),
    "storage of no type": tensor(of=storage("builtins.dict")),
    "storage of two types": tensor() + tensor(of=storage("torch.IntStorage")) + p.TUPLE2,
    "storage elsewhere": tensor(of=storage(key=text("../data.pkl"))),
    "storage with an escape": tensor(of=storage(key=text("\x1b]0;red\x07\n"))),
    "storage that is missing, with a long name": tensor(of=storage(key=text("x" * 10**6))),
    "storage that is a tuple": tensor(of=numbers(1, 2, 3)),
    "parameter of nothing": call("torch._utils._rebuild_parameter"),
    "parameter of a dict": call("torch._utils._rebuild_parameter", p.EMPTY_DICT),
    "foreign call": call("posix.system", text("true")),
    "weights that are no tensors": entry("state_dict", entry("a", p.NONE)),
    "weights by number": entry("state_dict", p.EMPTY_DICT + number(1) + tensor() + p.SETITEM),
    "keys with escapes": p.EMPTY_DICT + text("\x1b[31m\n\u202e" + "x" * 10**6) + p.NONE + p.SETITEM,
    "a million keys": p.EMPTY_DICT + p.MARK + b"".join(b"J" + struct.pack("<i", n) + p.NONE for n in range(400_000))
    + p.SETITEMS,
}  # fmt: skip
"""These opcodes stand between ``PROTO`` and ``STOP``."""

LIKE_LIGHTNING = (
    (p.EMPTY_DICT + p.MARK)
    + (text("a") + tensor(numbers(2, 3), numbers(3, 1)) + p.BINPUT + b"\1")
    + (text("b") + tensor(numbers(2), numbers(1), number(4)) + text("same") + p.BINGET + b"\1")
    + (text("cfg") + SETTINGS + entry("_content", p.EMPTY_LIST + p.MARK + number(4) + p.NONE + p.APPENDS) + p.BUILD)
    + (text("size") + call("torch.Size", numbers(2, 3)) + text("any") + name("typing.Any"))
    + (text("state") + call("collections.OrderedDict") + entry("_metadata", p.NONE) + p.BUILD + p.SETITEMS)
)
"""It is a good pickle, of a part of what PyTorch and Lightning write."""


def zipped(members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytearray:
    stream = io.BytesIO()
    # Some have two members of one name, which Python warns of.
    with zipfile.ZipFile(stream, "w") as file, warnings.catch_warnings(action="ignore"):
        for member, raw in members:
            file.writestr(zipfile.ZipInfo(member), raw, kind)  # without the time of day
    return bytearray(stream.getvalue())


def pickled(opcodes: bytes) -> bytes:
    return p.PROTO + b"\2" + opcodes + p.STOP


def good() -> bytes:
    """A file that is read: ``{"a": ...}`` of six float32."""
    return bytes(zipped(members()))


def of_pickle(opcodes: bytes) -> bytes:
    return bytes(zipped(members(opcodes)))


def members(opcodes: bytes = entry("a", tensor())) -> list[tuple[str, bytes]]:
    return [("a/data.pkl", pickled(opcodes)), ("a/data/0", NUMBERS)]


def changed(mark: bytes, place: int, raw: bytes, which: int = -1) -> bytes:
    """A good file with other bytes at a place behind a mark, the first or the last in the file."""
    data = zipped(members())
    start = (data.rindex(mark) if which == -1 else data.index(mark)) + place
    data[start : start + len(raw)] = raw
    return bytes(data)


def crowd(count: int = 10**6) -> bytes:
    """A directory of a million entries that all stand for one member."""
    data = zipped(members())
    start = data.index(b"PK\1\2")
    entry = bytes(data[start : data.index(b"PK\1\2", start + 1)])
    directory = entry * count
    tail = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return bytes(data[:start]) + directory + tail + locator + end


DIRECTORY, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"
ZIPS: dict[str, Callable[[], bytes]] = {
    "members of one name": lambda: bytes(zipped([*members(), ("a/data/0", bytes(24))])),
    "two pickles": lambda: bytes(zipped([*members(), ("b/data.pkl", b"\x80\x02}.")])),
    "members that overlap": lambda: changed(DIRECTORY, 42, struct.pack("<I", 0)),
    "member outside the file": lambda: changed(DIRECTORY, 42, struct.pack("<I", 2**31)),
    "member of another name": lambda: changed(LOCAL, 30, b"b"),
    "member of another size": lambda: changed(LOCAL, 22, struct.pack("<I", 23)),
    "member longer than the file": lambda: changed(DIRECTORY, 20, struct.pack("<II", 2**31, 2**31)),
    "member of another checksum": lambda: changed(LOCAL, 14, b"1234"),
    "compressed member": lambda: bytes(zipped(members(), zipfile.ZIP_DEFLATED)),
    "member said to be packed": lambda: changed(LOCAL, 8, b"\x08\0"),
    "encrypted member": lambda: changed(DIRECTORY, 8, b"\1\0"),
    "unknown version": lambda: changed(DIRECTORY, 6, b"\xff\xff"),
    "name beyond the file": lambda: changed(LOCAL, 26, b"\xff\xff"),
    "directory before the file": lambda: changed(END, 12, struct.pack("<II", 2**31, 2**31)),
    "comment beyond the file": lambda: changed(END, 20, b"\xff\xff"),
    "a million members": crowd,
    "byte order of no kind": lambda: bytes(zipped([*members(), ("a/byteorder", b"middle\x1b[31m")])),
    "no storage": lambda: bytes(zipped(members()[:1])),
    "no pickle": lambda: bytes(zipped(members()[1:])),
    "head of a zip alone": lambda: LOCAL,
    "nothing": lambda: b"",
}  # fmt: skip
FILES: dict[str, Callable[[], bytes]] = ZIPS | {
    title: lambda opcodes=opcodes: of_pickle(opcodes) for title, opcodes in PICKLES.items()  # type: ignore[misc]
}  # fmt: skip


def open_weights(path: Path) -> Any:
    """Read a file as the import command reads one."""
    from dvg_jax.torch_import.release import open_vqgan

    return open_vqgan("ct_vqgan", path).read()


def attack(folder: Path, until: float) -> Result:
    """Read every file in a child process."""
    children = Children(MEGABYTES)
    tried, failed = 0, []
    for title, build in FILES.items():
        if time.monotonic() > until:
            break
        path = folder / "hostile.pt"
        path.write_bytes(build())
        found = children.outcome(open_weights, path, until)
        if found is None:
            break
        tried += 1
        if not found.startswith(REFUSED):
            failed.append(f"{title}: {found}")
    return Result("torch files", tried, tried - len(failed), tuple(failed))
