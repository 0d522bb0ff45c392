"""Keep the examples that frozen stages make of each CT in the stage's folder.

    CT --Preparation, one case at a time--> example --> <workdir>/<stage>/examples/<name>.npy, facts.json

A kept example is used only where all that it depends on is unchanged; ``facts.json`` contains digests of that.
"""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.config.table import example_settings
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import ArraySource, Source
from dvg_jax.files.atomic import new_folder
from dvg_jax.files.outputs import allocate
from dvg_jax.fingerprint import fingerprint, of_file, of_program, of_settings
from dvg_jax.shapes import VariablesByStage, Volumes
from dvg_jax.stages.base import Example, Stage
from dvg_jax.training import sharding

FACTS = "facts.json"


class Preparation:
    """Run a stage's ``prepare`` with one case a device: CTs in, examples out, both on the host.

    The devices are those of this process, so that several processes need not wait for each other.

    Args:
      stage: that the examples are for.
      frozen: variables of the stages that it requires, by name.
      mesh: of all devices.
    """

    def __init__(self, stage: Stage, frozen: VariablesByStage, mesh: Mesh) -> None:
        own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
        self.name, self.width = stage.name, len(own)
        self._mesh = Mesh(np.array(own), ("data",))
        # If all devices belong to this process, the weights are there already.
        here = frozen if len(own) == mesh.size else jax.tree.map(lambda x: x.addressable_data(0), frozen)
        self._frozen = jax.device_put(here, sharding.replicated(self._mesh))

        def prepare(frozen: VariablesByStage, ct: Volumes) -> Example:
            # No views are drawn. The samples that the refiner learns from begin with one noise, so that an example does
            # not depend on its place among the others.
            return stage.prepare(frozen, ct, jax.random.key(0))

        # On one device the blocks that ``prepare`` calls are compiled one by one, and serve other stages too.
        split = PartitionSpec("data")
        over_devices = jax.shard_map(
            prepare, mesh=self._mesh, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
        )
        self._prepare = prepare if self.width == 1 else jax.jit(over_devices)

    def __call__(self, ct: np.ndarray) -> Example:
        """Return the examples of CTs, (B, D, H, W, 1), as NumPy arrays of B rows."""
        cases = np.arange(-(-len(ct) // self.width) * self.width)
        rows = np.minimum(cases, len(ct) - 1).reshape(-1, self.width)
        parts = [self._prepare(self._frozen, sharding.put_batch(self._mesh, ct[row])) for row in rows]
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(ct)], *parts)


def origin(config: ConfigDict, stage: Stage, frozen: VariablesByStage, source: Source) -> dict[str, str]:
    """Return digests of all that a stage's examples depend on, by name.

    Args:
      config: of the run.
      stage: that the examples are for.
      frozen: variables of the stages that it requires, by name.
      source: of the CTs.
    """
    settings = {"stage": stage.name} | example_settings(config)
    return {
        "weights": fingerprint(frozen),
        "data": source.identity,
        "settings": of_settings(settings),
        "program": of_program(),
    }


def kept_examples(
    folder: Path,
    preparation: Preparation,
    source: Source,
    facts: dict[str, str],
    between: Callable[[], None],
) -> Source:
    """Return the examples of all cases: from ``folder`` if they belong to ``facts``, else computed and stored there.

    They are read from disk, so that memory does not bound their number. The first process writes. Others that find
    nothing keep theirs in memory.

    Args:
      folder: of the examples.
      preparation: computes them.
      source: of the CTs.
      facts: from :func:`origin`.
      between: is called before every group of cases; if it raises, nothing that was computed is left.
    """
    arrays = _read_kept(folder, preparation.name, facts)
    if arrays is None and jax.process_index() == 0:
        for old in (folder, *folder.parent.glob(f".partial-*-{folder.name}")):
            shutil.rmtree(old, ignore_errors=True)
        _write(folder, preparation, source, facts, between)
        arrays = _read_kept(folder, preparation.name, facts)
    if arrays is None:
        rows = list(_computed(preparation, source, between))
        arrays = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    return ArraySource(arrays)


def _computed(preparation: Preparation, source: Source, between: Callable[[], None]) -> Iterator[Example]:
    """Yield the examples of all cases in order, of as many at a time as there are devices."""
    with tqdm(total=len(source), desc=f"{preparation.name} examples", disable=jax.process_index() > 0) as bar:
        for batch in evaluation_batches(source, preparation.width):
            between()
            ct = batch["ct"][batch["mask"] > 0]
            yield preparation(ct)
            bar.update(len(ct))


def _write(
    folder: Path, preparation: Preparation, source: Source, facts: dict[str, str], between: Callable[[], None]
) -> None:
    """Fill a temporary folder, and rename it once it is complete."""
    with new_folder(folder) as part:
        with ExitStack() as closing:
            files: dict[str, BinaryIO] = {}
            for example in _computed(preparation, source, between):
                for name, rows in example.items():
                    if name not in files:
                        files[name] = closing.enter_context((part / f"{name}.npy").open("wb"))
                        _begin_array(files[name], rows.dtype, (len(source), *rows.shape[1:]))
                    files[name].write(rows.tobytes())
        digests = {file.name: of_file(file) for file in sorted(part.glob("*.npy"))}
        (part / FACTS).write_text(json.dumps({"of": facts, "sha256": digests}, indent=2) + "\n", encoding="utf-8")


def _begin_array(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write the header of an array whose rows follow, and reserve room for them, as far as the file system can.

    Rows are written and not mapped: on a full disk a mapped one ends the process by SIGBUS, without a word.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    allocate(file.fileno(), file.tell() + math.prod(shape) * dtype.itemsize)


def _read_kept(folder: Path, name: str, facts: dict[str, str]) -> dict[str, np.ndarray] | None:
    """Return the arrays in ``folder``; None, and a line that says why, where they cannot be used."""
    if not folder.exists():
        return None
    try:
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        changed = [part for part, digest in facts.items() if found["of"].get(part) != digest]
        broken = [file for file, digest in found["sha256"].items() if of_file(folder / file) != digest]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        changed, broken = [], [f"{FACTS} ({error})"]
    if changed or broken:
        reason = f"other {', '.join(changed)}" if changed else f"not as written: {', '.join(broken)}"
        print(f"{name}: the examples in {folder} are of no use ({reason}) and are computed anew", file=sys.stderr)
        return None
    # A plain view: rows of it become plain arrays.
    return {Path(file).stem: np.load(folder / file, mmap_mode="r").view(np.ndarray) for file in found["sha256"]}
