"""Define sources of volumes, which give examples by number; ``opening`` opens those that a config names.

A source has a length, ``ENDLESS`` for one without end, and gives ``source[i]`` = ``{"ct": (D, H, W, 1) float32 in
[0, 1], "index": int32}``. The same ``i`` gives the same bits in every process and after every restart.
"""

import gzip
import threading
from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import jax
import nibabel as nib
import numpy as np

from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.manifest import SPLITS, read_manifest
from dvg_jax.data.phantom import VERSION, chest
from dvg_jax.errors import UserError
from dvg_jax.fingerprint import fingerprint, of_files, of_settings
from dvg_jax.keys import digest

Example = dict[str, Any]

_STREAMS = {"train": 0, "test": 1, "val": 2}
"""Number of the random stream that phantoms of a split draw from; other splits use a digest of their name.

These numbers keep the phantoms of ``docs/results``.
"""

ENDLESS = 2**31 - 1
"""A source without end has this length: the number of examples that have an int32 of their own."""


@runtime_checkable
class Source(Protocol):
    """Define grain's random access data source; sources of equal ``identity`` hold the same examples."""

    @property
    def identity(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class ArraySource:
    """Serve rows of arrays in memory, such as cached latents: ``{"ct": (N, ...), "latent": (N, ...)}``."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """Take the arrays by name. Raises UserError for no arrays, no rows, or arrays of unequal length."""
        lengths = {name: len(array) for name, array in arrays.items()}
        if not lengths or len(set(lengths.values())) != 1 or min(lengths.values()) == 0:
            raise UserError(f"arrays have lengths {lengths}; allowed: equal lengths above 0")
        self._arrays = dict(arrays)
        self._length = next(iter(lengths.values()))

    @property
    def identity(self) -> str:
        """Return a digest of the arrays."""
        return fingerprint(self._arrays)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        return {name: array[index] for name, array in self._arrays.items()} | {"index": np.int32(index)}


@cache
def host_device() -> jax.Device:
    """Return this process's CPU, or its first device where ``JAX_PLATFORMS`` leaves the CPU out.

    Reading threads compute there: on an accelerator they would wait for the training steps that are under way.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


@partial(jax.jit, static_argnums=0)
def _chest(size: int, key: jax.Array, index: jax.Array | int) -> jax.Array:
    return chest(jax.random.fold_in(key, index), size)


class PhantomSource:
    """Draw ``count`` random chests of ``size``^3 voxels, or chests without end where ``count`` is 0.

    Example i of a split is drawn from (seed, split, i). It does not depend on ``count`` or on the order of reading.
    Chests that can come again, which endless ones do not, are stored.
    """

    def __init__(self, count: int, size: int, seed: int = 0, split: str = "train"):
        """Set up a split's stream. Raises UserError for a count below 0, a size below 1 or an unknown split."""
        if count < 0 or size < 1:
            raise UserError(f"phantom count is {count}, size is {size}; allowed: 0 or more, and 1 or more")
        self.identity = of_settings({"phantoms": count, "size": size, "seed": seed, "split": split, "version": VERSION})
        self._key, self._size = jax.random.fold_in(jax.random.key(seed), _stream(split)), size
        if not count:
            self._key = jax.device_put(self._key, host_device())
        self._kept: list[np.ndarray | None] = [None] * count
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept) or ENDLESS

    def __getitem__(self, index: int) -> Example:
        if not self._kept:
            return {"ct": self._drawn(index), "index": np.int32(index)}
        with self._lock:
            if self._kept[index] is None:
                self._kept[index] = self._drawn(index)
        return {"ct": self._kept[index], "index": np.int32(index)}

    def _drawn(self, index: int) -> np.ndarray:
        return np.asarray(_chest(self._size, self._key, index), np.float32)[..., None]


class PreparedSource:
    """Read one split of a folder written by ``dvg_jax.data.prepare``, or all of it.

    Files are read once and stored as int16 HU.

    Attributes:
      files: prepared files, in the manifest's order.
      patients: patient id of each file.
    """

    def __init__(self, folder: str | Path, split: str, size: int, count: int = 0):
        """List and check the split's files.

        Args:
          folder: folder with a manifest.
          split: name of a split, or ``"all"``.
          size: voxels along each axis.
          count: number of scans to take from the start, 0 for all.

        Raises:
          UserError: a manifest or file is absent, a file has another size, or the split is unknown, empty or smaller
            than ``count``.
        """
        folder = Path(folder)
        if split != "all":
            _check_split(split)
        prepared = [row for row in read_manifest(folder) if row.status == "ok"]
        rows = [row for row in prepared if split in ("all", row.split)]
        if not rows:
            there = Counter(row.split or "none" for row in prepared)
            counts = ", ".join(f"{count} in {name!r}" for name, count in there.items()) or "none at all"
            raise UserError(
                f"{folder}: no prepared scan in split {split!r} ({counts}); allowed: a split with one, as "
                "dvg_jax.data.prepare makes with --test_fraction, --val_fraction or lists"
            )
        if count > len(rows):
            raise UserError(f"{folder}: {count} scans of split {split!r} are asked for; allowed: up to {len(rows)}")
        rows = rows[: count or None]
        self.files = [folder / row.file for row in rows]
        self.patients = [row.patient for row in rows]
        self._kept: list[np.ndarray | None] = [None] * len(rows)
        for file in self.files:
            if not file.is_file():
                raise UserError(f"{file}: absent, but listed in the manifest; run dvg_jax.data.prepare again")
            shape = _image(file).shape
            if shape != (size,) * 3:
                raise UserError(f"{file}: shape {shape}; allowed: {(size,) * 3}, prepare with --size {size}")

    @cached_property
    def identity(self) -> str:
        """Return a digest of the files' content."""
        return of_files(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        kept = self._kept[index]
        if kept is None:
            kept = _voxels(self.files[index]).transpose(2, 1, 0)
            self._kept[index] = kept
        return {"ct": np.asarray(hu_to_intensity(kept), np.float32)[..., None], "index": np.int32(index)}


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")


def _stream(split: str) -> int:
    _check_split(split)
    return _STREAMS.get(split, digest(split))


def _image(file: Path) -> nib.Nifti1Image:
    return cast(nib.Nifti1Image, nib.load(file))


def _voxels(file: Path) -> np.ndarray:
    """Return the voxels (W, H, D) as stored.

    A compressed file is unpacked by one call, which lets other threads run. nibabel's own reading takes Python's lock
    every few KiB.
    """
    packed = file.suffix == ".gz"
    image = nib.Nifti1Image.from_bytes(gzip.decompress(file.read_bytes())) if packed else _image(file)
    return np.asarray(image.dataobj, np.int16)
