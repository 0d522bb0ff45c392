"""Sum kernels up: for a whole program, by kind, by the names of our modules, by window."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_plan.compiling import Compiled
from benchmarks.gpu_plan.hlo import parse
from benchmarks.gpu_plan.kernels import COLLECTIVES, Kernel, endless_loops, kernels
from benchmarks.gpu_plan.targets import Target

GROUPINGS = ("kind", "name", "module")
"""``name`` is JAX's path of a result, ``module`` that path without its last word; numbers in both are left out."""

HEAD = "| program | GiB planned | kernels | GFLOP | GB moved | roof, ms |\n|---|---|---|---|---|---|"


@dataclass
class Totals:
    """Hold sums over kernels: launches, GFLOP, GB and the milliseconds of the roof."""

    kernels: int = 0
    gflop: float = 0.0
    gb: float = 0.0
    roof_ms: float = 0.0

    def add(self, kernel: Kernel, target: Target) -> None:
        """Add all runs of a kernel."""
        self.kernels += kernel.runs
        self.gflop += kernel.runs * kernel.flop / 1e9
        self.gb += kernel.runs * kernel.bytes / 1e9
        self.roof_ms += kernel.seconds(target) * 1e3

    def cells(self) -> str:
        """Return the sums as the cells of a table's row."""
        return f"{self.kernels} | {self.gflop:.1f} | {self.gb:.2f} | {self.roof_ms:.2f}"


def summed(found: Iterable[Kernel], target: Target, by: str | None = None) -> dict[str, Totals]:
    """Sum kernels up by a grouping, the group of the largest roof first; without one in a group named ``all``.

    Args:
      found: the kernels.
      target: gives the roof.
      by: one of :data:`GROUPINGS`.
    """
    groups: dict[str, Totals] = defaultdict(Totals)
    for kernel in found:
        groups[_group(kernel, by)].add(kernel, target)
    return dict(sorted(groups.items(), key=lambda group: -group[1].roof_ms))


def plan(compiled: Compiled, target: Target) -> dict[str, Any]:
    """Return all figures of a compiled program that are kept: memory, sums, and sums by kind.

    ``endless_loops`` counts loops of unknown length, whose kernels are counted once.
    """
    module = parse(compiled.text)
    found = kernels(module)
    total = summed(found, target).get("all", Totals())
    kinds = {kind: vars(totals) for kind, totals in summed(found, target, "kind").items()}
    return {**compiled.memory, **vars(total), "endless_loops": endless_loops(module), "kinds": kinds}


def row(name: str, found: dict[str, Any]) -> str:
    """Return a line of the table whose head is :data:`HEAD`."""
    totals = Totals(**{key: found[key] for key in vars(Totals())})
    memory = f"{found['peak_gib']:.2f}" if "peak_gib" in found else "not known"
    return f"| {name} | {memory} | {totals.cells()} |"


def groups_table(found: Iterable[Kernel], target: Target, by: str, top: int) -> str:
    """Return the ``top`` groups of the largest roof as a table."""
    groups = summed(found, target, by)
    lines = [f"| {group} | {totals.cells()} |" for group, totals in list(groups.items())[:top]]
    left = len(groups) - len(lines)
    more = [f"\n{left} smaller groups are left out (--top)"] if left else []
    return "\n".join([f"| {by} | kernels | GFLOP | GB moved | roof, ms |\n|---|---|---|---|---|", *lines, *more])


def windows_table(found: Iterable[Kernel], target: Target) -> str:
    """Return the windows of all convolutions, the widest first, with one of the names that has each."""
    groups: dict[tuple[int, ...], Totals] = defaultdict(Totals)
    names: dict[tuple[int, ...], str] = {}
    for kernel in found:
        if kernel.window:
            groups[kernel.window].add(kernel, target)
            names.setdefault(kernel.window, kernel.op_name)
    lines = [
        f"| {'x'.join(map(str, window))} | {groups[window].cells()} | {names[window]} |"
        for window in sorted(groups, key=lambda window: (-max(window), window))
    ]
    head = "| window | kernels | GFLOP | GB moved | roof, ms | one of them |\n|---|---|---|---|---|---|"
    return "\n".join([head, *lines])


def collectives(found: Iterable[Kernel]) -> dict[str, dict[str, float]]:
    """Return launches and GB of collectives by kind; GB are the larger of what a device gives and gets."""
    sums: dict[str, dict[str, float]] = {}
    for kernel in found:
        if kernel.kind in COLLECTIVES:
            kind = sums.setdefault(kernel.kind, {"count": 0, "gb": 0.0})
            kind["count"] += kernel.runs
            kind["gb"] += kernel.runs * kernel.bytes / 1e9
    return sums


def _group(kernel: Kernel, by: str | None) -> str:
    if by is None:
        return "all"
    if by == "kind":
        return f"{kernel.kind}, {kernel.dtype}" if kernel.dtype else kernel.kind
    path = kernel.op_name if by == "name" else kernel.op_name.rpartition("/")[0]
    return re.sub(r"\d+(?![A-Za-z0-9])", "#", path) or "no name"
