"""Run a pickle's opcodes on a stack of plain values, within limits, and without Python's own unpickler.

Python's unpickler trusts its input: it hashes, compares and calls what it has built, recurses as deep as the file
asks, and reserves the memory that a number in the file states. Here an opcode builds lists, dicts, tuples, numbers and
strings, and asks its caller for the rest: for a name, for the result of a call, for a record outside the pickle. Only
opcodes that ``torch.save`` writes are known.
"""

import pickletools
from collections.abc import Callable
from typing import Any

MOST_BYTES = 2**24
MOST_OPCODES = 1_000_000
"""A tensor takes about 40 opcodes and 200 bytes, so a file may have 20,000 tensors and more."""

_NUMBERS_AND_STRINGS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}


class Name:
    """Stand for a class or function that is named and not loaded."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}, not loaded>"


class Placeholder(Name):
    """Replace an object whose class is not loaded: store its arguments, state and items, and do nothing."""

    __slots__ = ("arguments", "items", "state")

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        super().__init__(kind)
        self.arguments = arguments
        self.state: Any = {}
        self.items: dict[Any, Any] = {}


class Machine:
    """Run one pickle.

    Args:
      find: returns what stands for a name ``module.name``.
      call: returns the result of calling a name with a tuple of arguments.
      load: returns what stands for a record outside the pickle.
    """

    def __init__(
        self, find: Callable[[str], Name], call: Callable[[Name, tuple[Any, ...]], Any], load: Callable[[Any], Any]
    ) -> None:
        self.find, self.call, self.load = find, call, load
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: memoryview) -> Any:
        """Return the object that a pickle builds.

        Raises:
          ValueError, LookupError: the pickle is damaged or beyond a limit.
        """
        if len(data) > MOST_BYTES:
            raise ValueError(f"a pickle of {len(data):,} bytes, more than {MOST_BYTES:,}")
        for count, (opcode, argument, _) in enumerate(pickletools.genops(bytes(data))):
            if count == MOST_OPCODES:
                raise ValueError(f"a pickle of more than {MOST_OPCODES:,} opcodes")
            if opcode.name == "FRAME" and (argument or 0) > len(data):
                raise ValueError("a pickle whose frame is longer than the pickle")
            self._step(opcode.name, argument)
            if self.marks and self.marks[-1] > len(self.stack):
                raise ValueError("a pickle that takes values from below a mark")
        if len(self.stack) != 1:
            raise ValueError(f"a pickle that leaves {len(self.stack)} values")
        return self.stack[0]

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _NUMBERS_AND_STRINGS:
            stack.append(argument)
        elif name in _PUTS:
            self.memo[argument] = stack[-1]
        elif name in _GETS:
            if argument not in self.memo:
                raise ValueError("a pickle that refers to what it has not built")
            stack.append(self.memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(self._top(_TUPLES[name]))]
        elif handler := _HANDLERS.get(name):
            handler(self, argument)
        else:
            raise ValueError(f"opcode {name}, which torch.save does not write")

    def _top(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("a pickle that takes more values than it has")
        return self.stack[-count:]

    def _marked(self) -> list[Any]:
        """Remove and return the values above the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _stack_global(self, _: Any) -> None:
        module, name = self._top(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no string")
        self.stack[-2:] = [self.find(f"{module}.{name}")]

    def _reduce(self, _: Any) -> None:
        function, arguments = self._top(2)
        if type(function) is not Name or type(arguments) is not tuple:
            raise ValueError("a call of what is no name")
        self.stack[-2:] = [self.call(function, arguments)]

    def _build(self, _: Any) -> None:
        """Keep the state of a placeholder; a dict's, such as PyTorch's versions of a state dict, is dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Placeholder:
            target.state = state
        elif type(target) is not dict or type(state) is not dict:
            raise ValueError("a state for what has none")

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("items of what is no list")
        target.extend(values)

    def _update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if type(target) is Placeholder else target
        if type(items) is not dict or len(values) % 2:
            raise ValueError("keys of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Only these are hashed in a bounded time. Lightning's callbacks have their classes as keys.
            if type(key) not in (str, int, float, bool, bytes, type(None), Name):
                raise ValueError(f"a key that is a {type(key).__name__}, not a string or number")
            items[key] = value


_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "STOP": lambda machine, argument: None,
    "MARK": lambda machine, argument: machine.marks.append(len(machine.stack)),
    "EMPTY_DICT": lambda machine, argument: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, argument: machine.stack.append([]),
    "EMPTY_SET": lambda machine, argument: machine.stack.append([]),
    "TUPLE": lambda machine, argument: machine.stack.append(tuple(machine._marked())),
    "APPEND": lambda machine, argument: machine._extend([machine.stack.pop()]),
    "APPENDS": lambda machine, argument: machine._extend(machine._marked()),
    "ADDITEMS": lambda machine, argument: machine._extend(machine._marked()),
    "SETITEM": lambda machine, argument: machine._update([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine._update(machine._marked()),
    "MEMOIZE": Machine._memoize,
    "GLOBAL": lambda machine, argument: machine.stack.append(machine.find(argument.replace(" ", ".", 1))),
    "STACK_GLOBAL": Machine._stack_global,
    "BINPERSID": lambda machine, argument: machine.stack.append(machine.load(machine.stack.pop())),
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "BUILD": Machine._build,
}
"""Each function does what one of the other opcodes asks. Sets become lists, since elements would have to be hashed."""
