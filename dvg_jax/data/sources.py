"""Open sources of volumes, which give examples by number: :func:`open_source`.

A source has a length and gives ``source[i]`` = ``{"ct": (D, H, W, 1) float32 in [0, 1], "index": int32}``. The same
``i`` gives the same bits in every process and after every restart.
"""

import gzip
import sys
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
from dvg_jax.data.phantom import chest
from dvg_jax.errors import UserError, did_you_mean, near_path
from dvg_jax.fingerprint import fingerprint, of_files, of_settings
from dvg_jax.keys import digest

Example = dict[str, Any]

_STREAMS = {"train": 0, "test": 1, "val": 2}
"""Number of the random stream that phantoms of a split draw from; other splits use a digest of their name.

These numbers keep the phantoms of ``docs/results``.
"""

FEW_SCANS = 5
"""Size below which a training set gives a warning: most likely scans are missing."""


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


@partial(jax.jit, static_argnums=0)
def _chest(size: int, key: jax.Array, index: jax.Array | int) -> jax.Array:
    return chest(jax.random.fold_in(key, index), size)


class PhantomSource:
    """Draw ``count`` random chests of ``size``^3 voxels.

    Example i of a split is drawn once from (seed, split, i) and stored. It does not depend on ``count`` or on the order
    of reading.
    """

    def __init__(self, count: int, size: int, seed: int = 0, split: str = "train"):
        """Set up a split's stream. Raises UserError for a count or size below 1 or an unknown split."""
        if count < 1 or size < 1:
            raise UserError(f"phantom count is {count}, size is {size}; allowed: 1 or more for both")
        self.identity = of_settings({"phantoms": count, "size": size, "seed": seed, "split": split})
        self._key, self._size = jax.random.fold_in(jax.random.key(seed), _stream(split)), size
        self._kept: list[np.ndarray | None] = [None] * count
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Example:
        with self._lock:
            if self._kept[index] is None:
                self._kept[index] = np.asarray(_chest(self._size, self._key, index), np.float32)[..., None]
        return {"ct": self._kept[index], "index": np.int32(index)}


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


# Every stage of a run opens the same phantoms: they are drawn once.
_phantoms = cache(PhantomSource)


def open_source(
    kind: str, split: str, size: int, count: int = 0, seed: int = 0, field: str = "config.data.source"
) -> Source:
    """Open the source that a config names.

    A training set of few scans gives a warning on stderr, once.

    Args:
      kind: ``"phantom"``, or a folder of prepared scans.
      split: name of the split.
      size: voxels along each axis.
      count: number of phantoms, or of scans to take from the start (0: all).
      seed: seed of the phantoms.
      field: that errors name.

    Raises:
      UserError: the folder does not exist, or as the sources do.
    """
    if kind == "phantom":
        return _phantoms(count, size, seed, split)
    if not Path(kind).is_dir():
        raise UserError(_no_source(kind, field))
    source = PreparedSource(kind, split, size, count)
    if split == "train" and len(source) < FEW_SCANS:
        _say_few(kind, len(source))
    return source


def _no_source(kind: str, field: str) -> str:
    """Say why ``kind`` is neither phantoms nor a folder."""
    what = "a file" if Path(kind).exists() else "which does not exist"
    near = did_you_mean(kind, ("phantom",)) or near_path(Path(kind))
    return f"{field} is {kind!r}, {what}{near}; allowed: phantom, or a folder by dvg_jax.data.prepare"


@cache
def _say_few(folder: str, scans: int) -> None:
    few = f"{scans} scan{'s' if scans > 1 else ''} in split 'train'"
    print(f"warning: {folder}: {few}: a model learns these patients and no others", file=sys.stderr)


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
