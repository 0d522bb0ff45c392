"""Read the text of an optimised HLO module into computations of instructions.

XLA has no reader of its own for Python that keeps all that is needed here: calls of libraries with their windows,
layouts, trip counts of loops.
"""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

SIZES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2", "f8e4m3", "f8e4m3b11fnuz", "f8e5m2fnuz"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
    "s4": 0.5,
    "u4": 0.5,
    "token": 0,
    "opaque": 0,
}
"""It maps HLO's name of a type to the bytes of an element."""

_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


class Array(NamedTuple):
    """Hold type and shape of an array, and bytes of an element."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> float:
        return SIZES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class Instruction:
    """Hold one line of a computation.

    Attributes:
      name: of the result, without ``%``.
      opcode: such as ``fusion`` or ``custom-call``.
      result: the arrays of the result; several where it is a tuple.
      operands: names of other instructions; of a parameter its number.
      attributes: all that follows the operands.
      root: it is the result of its computation.
    """

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        """Return the bytes of the result."""
        return sum(array.bytes for array in self.result)

    @property
    def op_name(self) -> str:
        """Return the path of modules and functions that JAX has given the operation; empty without one."""
        return self.quoted("op_name")

    def quoted(self, key: str) -> str:
        """Return the value of ``key="value"``; empty without one."""
        found = re.search(rf'\b{key}="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1].replace("\\", "") if found else ""

    def called(self, *keys: str) -> list[str]:
        """Return the names of the computations that one of ``keys`` names, alone or in braces."""
        found = re.search(rf"\b(?:{'|'.join(keys)})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes)
        return re.findall(r"[\w.\-]+", found[1] or found[2]) if found else []

    def numbers(self, key: str) -> list[int]:
        """Return the numbers of a list such as ``dimensions={0,1}`` or ``"dimensions":["0","1"]``."""
        found = re.search(rf'\b{key}"?[=:][\[{{]([\d,"\s]*)[\]}}]', self.attributes)
        return [int(n) for n in re.findall(r"\d+", found[1])] if found else []


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """Hold a program's computations by name, and the name of the first."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Read an HLO module.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (begun := _INSTRUCTION.match(line)):
            current[begun[2]] = _instruction(begun[2], line[begun.end() :], bool(begun[1]))
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is no HLO module")
    return Module(computations, entry)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    first = rest.index("(")
    last = _closing(rest, first)
    return Instruction(name, rest[:first], _arrays(result), _operands(rest[first + 1 : last]), rest[last + 1 :], root)


def _arrays(text: str) -> tuple[Array, ...]:
    """Return the arrays of a shape, whose layouts are left out; a dimension ``<=8`` counts as 8."""
    found = ((t, tuple(int(n.strip("<=")) for n in shape.split(",") if n)) for t, shape in _ARRAY.findall(text))
    return tuple(Array(dtype, shape) for dtype, shape in found if dtype in SIZES)


def _operands(text: str) -> tuple[str, ...]:
    """Return the last word of each operand, before which the operand's shape may stand."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    words = (re.sub(r"/\*.*?\*/", "", part).split() for part in [*parts, text[start:]])
    return tuple(word[-1].lstrip("%") for word in words if word)


def _closing(text: str, start: int) -> int:
    """Return the place of the bracket that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    raise ValueError(f"a bracket is not closed: {text[start : start + 80]}")
