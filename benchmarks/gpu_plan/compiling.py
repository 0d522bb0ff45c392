"""Compile a lowered program for a GPU, and keep the result: it takes minutes, and its text is read again and again.

A stored result is found by all that decides it: the lowered program, the GPU, XLA's flags and the compiler's version.
Results lie in ``build/gpu_plan``, which Git ignores.
"""

import gzip
import hashlib
import json
import re
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.gpu_plan.targets import Target
from dvg_jax.errors import UserError

STORE = Path(__file__).parents[2] / "build" / "gpu_plan"

GIB = 2**30


class Compiled(NamedTuple):
    """Hold the optimised program's text, in HLO, and its planned memory in GiB.

    Attributes:
      text: of the optimised module.
      memory: ``peak_gib`` with its parts ``held_gib``, of arguments and results, and ``between_gib``; ``compile_s``.
      file: where the text is stored.
    """

    text: str
    memory: dict[str, float]
    file: Path


def compiled(
    lowered: jax.stages.Lowered, name: str, target: Target, flags: dict[str, str] | None = None, store: Path = STORE
) -> Compiled:
    """Compile a program, or read what an earlier call has stored.

    Args:
      lowered: the program.
      name: begins the names of the stored files.
      target: the GPU that ``lowered`` was lowered for.
      flags: of XLA, by name without dashes.
      store: folder of stored results.

    Raises:
      UserError: XLA does not know a flag, or not its value.
    """
    decides = [lowered.as_text(), target.description, json.dumps(flags or {}, sort_keys=True), *_versions()]
    digest = hashlib.sha256("\n".join(decides).encode()).hexdigest()[:12]
    words = "-".join(re.findall(r"\w+", name))
    file = store / f"{target.name}-{words}-{digest}.hlo.gz"
    notes = _notes(file)
    if notes.exists():
        return stored(file)
    start = time.perf_counter()
    options = {flag: {"true": True, "false": False}.get(value, value) for flag, value in (flags or {}).items()}
    try:
        made = lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
        if "option" not in str(error) or not options:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"--flags is {' '.join(flags or {})}: {reason}; allowed: flags that this XLA knows") from error
    text, memory = made.as_text(), _memory(made.memory_analysis()) | {"compile_s": time.perf_counter() - start}
    store.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as output:
        output.write(text)
    # Last: a result counts as stored once its notes are there.
    notes.write_text(json.dumps(memory))
    return Compiled(text, memory, file)


def stored(file: Path) -> Compiled:
    """Read a stored text, compressed or not, and its memory if that is stored beside it."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as text:
        notes = _notes(file)
        return Compiled(text.read(), json.loads(notes.read_text()) if notes.exists() else {}, file)


def _notes(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(".gz").removesuffix(".hlo") + ".json")


def _memory(found: Any) -> dict[str, float]:
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    between = found.temp_size_in_bytes
    return {"peak_gib": (held + between) / GIB, "held_gib": held / GIB, "between_gib": between / GIB}


def _versions() -> list[str]:
    """Return names and versions of the packages that hold the compiler and its libraries."""
    found = {d.metadata["Name"].lower(): d.version for d in distributions()}
    return sorted(f"{name} {version}" for name, version in found.items() if name.startswith(("jax", "nvidia-")))
