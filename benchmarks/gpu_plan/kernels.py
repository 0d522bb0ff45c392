"""List what a GPU will launch for an optimised HLO module: kind, arithmetic, memory traffic, window.

Bytes are those of a kernel's operands and results, each counted once, as if no kernel found anything in a cache. What a
fusion reads by slices counts as the slices. Arithmetic is that of convolutions and products alone. A loop's kernels
count as often as XLA knows it to run, and those of a conditional's branches all.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gpu_plan.hlo import Array, Computation, Instruction, Module
from benchmarks.gpu_plan.targets import Target

FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id"),
    "opt-barrier",
}
"""These instructions launch nothing."""

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast"),
    "ragged-all-to-all",
)

PLUMBING = {"parameter", "bitcast", "convert", "constant", "tuple"}
MOVES = PLUMBING | {"pad", "reshape", "slice", "concatenate", "broadcast"}
TURNS = MOVES | {"transpose", "copy"}


@dataclass(frozen=True)
class Kernel:
    """Hold what is known of a kernel before it runs.

    Attributes:
      name: of its instruction.
      kind: ``conv``, ``gemm``, ``reduce``, ``transpose`` (which only moves), ``transpose+`` (which also computes),
        ``move`` (pads, joins, converts), ``loop`` (computes element by element) and others.
      runs: launches in one call of the program.
      flop: of one run.
      bytes: of one run, read and written.
      dtype: HLO's name of the type of its products' operands; empty without any.
      highest: its products may not be TF32.
      window: of a convolution, an axis after the other; empty of others.
      op_name: the path that JAX has given its result.
    """

    name: str
    kind: str
    runs: int
    flop: float
    bytes: float
    dtype: str = ""
    highest: bool = False
    window: tuple[int, ...] = ()
    op_name: str = ""

    def seconds(self, target: Target) -> float:
        """Return the least time that all runs can take: that of their arithmetic or of their traffic."""
        arithmetic = self.flop / target.flop_rate(self.dtype, self.highest)
        return self.runs * max(arithmetic, self.bytes / target.bandwidth)


def kernels(module: Module) -> list[Kernel]:
    """Return the kernels of a module in the order of its text."""
    return list(_Reader(module).computation(module.entry, 1))


def endless_loops(module: Module) -> int:
    """Count loops whose length XLA does not know: their kernels count once."""
    found = (i for computation in module.computations.values() for i in computation.values())
    return sum(i.opcode == "while" and _trips(i) is None for i in found)


class _Reader:
    """Turn instructions into kernels."""

    def __init__(self, module: Module) -> None:
        self._all = module.computations

    def computation(self, name: str, runs: int) -> Iterator[Kernel]:
        """Yield the kernels of a computation that runs so often."""
        for instruction in self._all[name].values():
            yield from self._kernels(instruction, self._all[name], runs)

    def _kernels(self, i: Instruction, around: Computation, runs: int) -> Iterator[Kernel]:
        if i.opcode in FREE or i.opcode.endswith("-done"):
            return
        if i.opcode == "while":
            yield from self.computation(i.called("body")[0], runs * (_trips(i) or 1))
        elif i.opcode in ("conditional", "call", "async-start"):
            for name in i.called("branch_computations", "to_apply", "calls") or [
                *i.called("true_computation"),
                *i.called("false_computation"),
            ]:
                yield from self.computation(name, runs)
        else:
            yield self._kernel(i, around, runs)

    def _kernel(self, i: Instruction, around: Computation, runs: int) -> Kernel:
        inner = list(self._inside(i))
        products = [product for found, where in ((i, around), *inner) if (product := _product(found, where))]
        kind = _kind(i, Counter(found.opcode for found, _ in inner))
        moved = _collective_bytes(i, around) if kind in COLLECTIVES else self._read(i, around) + self._written(i)
        highest = any("highest" in found.attributes for found in (i, *(found for found, _ in inner)))
        window = next((w for found in (i, *(found for found, _ in inner)) if (w := _window(found))), ())
        flop, dtype = sum(p[0] for p in products), products[0][1] if products else ""
        return Kernel(i.name, kind, runs, flop, moved, dtype, bool(products) and highest, window, i.op_name)

    def _inside(self, i: Instruction) -> Iterator[tuple[Instruction, Computation]]:
        """Yield the instructions of a fusion, and of those in it, each with its computation."""
        if i.opcode == "fusion":
            fused = self._all[i.called("calls")[0]]
            for found in fused.values():
                yield found, fused
                yield from self._inside(found)

    def _read(self, i: Instruction, around: Computation) -> float:
        """Return the bytes of a kernel's operands that it reads."""
        whole = [around[name].bytes if name in around else 0.0 for name in i.operands]
        if i.opcode != "fusion":
            return sum(whole)
        fused = self._all[i.called("calls")[0]]
        for parameter in (found for found in fused.values() if found.opcode == "parameter"):
            number, array = int(parameter.operands[0]), parameter.result[0]
            elements = _elements_read(parameter.name, fused)
            if elements is not None and number < len(whole):
                whole[number] = min(whole[number], elements * array.bytes / max(math.prod(array.shape), 1))
        return sum(whole)

    def _written(self, i: Instruction) -> float:
        """Return the bytes of a kernel's results: an update in place writes its update, and scratch is no result."""
        if i.opcode == "custom-call" and len(i.result) > 1 and i.result[-1].dtype in ("s8", "u8"):
            return sum(array.bytes for array in i.result[:-1])
        if i.opcode != "fusion":
            return i.bytes
        fused = self._all[i.called("calls")[0]]
        root = next(found for found in fused.values() if found.root)
        results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
        return sum(
            fused[result.operands[1]].bytes if result.opcode == "dynamic-update-slice" else result.bytes
            for result in results
        )


def _elements_read(name: str, fused: Computation) -> float | None:
    """Return how many elements of an array in a fusion are read by slices of it; None where something reads all."""
    total = 0.0
    for user in (found for found in fused.values() if name in found.operands):
        part: float | None = None
        if user.opcode in ("slice", "dynamic-slice", "gather") and user.operands[0] == name:
            part = math.prod(user.result[0].shape)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            part = 0.0
        elif user.opcode in ("bitcast", "convert", "transpose") and not user.root:
            part = _elements_read(user.name, fused)
        if part is None:
            return None
        total += part
    return total


def _kind(i: Instruction, inside: Counter[str]) -> str:
    opcode = i.opcode.removesuffix("-start")
    if opcode in COLLECTIVES or opcode in ("copy", "sort"):
        return opcode
    if opcode == "custom-call":
        target = i.quoted("custom_call_target")
        return "conv" if "cudnn$conv" in target else "gemm" if "cublas" in target else f"call of {target}"
    if opcode in ("dot", "convolution"):
        return {"dot": "gemm", "convolution": "conv"}[opcode]
    if opcode != "fusion":
        return opcode
    named = {"convolution": "conv", "dot": "gemm", "scatter": "scatter", "gather": "gather", "sort": "sort"}
    for name, kind in named.items():
        if inside[name]:
            return kind
    only = set(inside)
    if inside["transpose"] or (inside["copy"] and only <= PLUMBING | {"copy"}):
        return "transpose" if only <= TURNS else "transpose+"
    if inside["reduce"] or inside["reduce-window"]:
        return "reduce"
    if only <= MOVES:
        return "move"
    return "slice" if inside["dynamic-slice"] or inside["dynamic-update-slice"] else "loop"


def _product(i: Instruction, around: Computation) -> tuple[float, str] | None:
    """Return floating point operations and type of a product or convolution; None of other instructions."""
    target = i.quoted("custom_call_target") if i.opcode == "custom-call" else ""
    if i.opcode == "dot" or "cublas" in target:
        left = around[i.operands[0]].result[0]
        axes = i.numbers("lhs_contracting_dims") or i.numbers("lhs_contracting_dimensions")
        return 2 * math.prod(i.result[0].shape) * math.prod(left.shape[axis] for axis in axes), left.dtype
    if i.opcode == "convolution" or "cudnn$conv" in target:
        return _convolution(i, around, target)
    return None


def _convolution(i: Instruction, around: Computation, target: str) -> tuple[float, str]:
    """Count a convolution as its window at every place of the forward direction's output.

    cuDNN's calls of gradients have the labels of the forward direction: the gradient of the input takes that of the
    output first, and the gradient of the kernel takes it second.
    """
    left, right = (around[name].result[0] for name in i.operands[:2])
    output, kernel = i.result[0], right
    if "BackwardInput" in target:
        output = left
    elif "BackwardFilter" in target:
        output, kernel = right, i.result[0]
    labels = re.search(r"dim_labels=\w+_\w+->(\w+)", i.attributes)
    assert labels is not None, i.attributes
    places = math.prod(n for n, label in zip(output.shape, labels[1], strict=True) if label != "f")
    return 2 * places * math.prod(kernel.shape), left.dtype


def _window(i: Instruction) -> tuple[int, ...]:
    found = re.search(r"\bwindow=\{size=([\dx]+)", i.attributes)
    convolves = i.opcode == "convolution" or (i.opcode == "custom-call" and "dim_labels=" in i.attributes)
    return tuple(int(n) for n in found[1].split("x")) if found and convolves else ()


def _collective_bytes(i: Instruction, around: Computation) -> float:
    """Return the larger of what a device gives to a collective and what it gets."""
    given = sum(around[name].bytes for name in i.operands if name in around)
    results: tuple[Array, ...] = i.result
    if i.opcode in ("all-gather-start", "collective-permute-start"):  # operand and result, then of permutes flags
        results = i.result[1:2]
    return max(given, sum(array.bytes for array in results))


def _trips(i: Instruction) -> int | None:
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.attributes)
    return int(found[1]) if found else None
