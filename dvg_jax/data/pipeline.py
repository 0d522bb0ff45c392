"""Make batches: an endless stream for training, one ordered pass for evaluation."""

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from dvg_jax.data.sources import ENDLESS, Source
from dvg_jax.errors import UserError

_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

EPOCHS = 10**9
"""Number of epochs, in effect endless; grain's own endless repetition overflows at a batch size of 1."""

FIRST = 1024
"""An ordered pass over an endless source ends after so many examples."""


def training_iterator(
    source: Source, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator:
    """Return endless batches ``{"ct": (B, D, H, W, 1), "index": (B,), ...}`` of a source, as NumPy arrays.

    The examples of an endless source come in order. Of others every epoch is a new permutation. Epochs follow each
    other without a gap, so no example is left out, and a batch may contain the end of one epoch and the start of the
    next. ``get_state()`` (JSON-able, the same in all processes) and ``set_state(state)`` continue the sequence exactly;
    ``close()`` ends the reading threads.

    Args:
      source: examples by number.
      batch_size: rows of a batch over all processes.
      seed: seed of the permutations.
      process_index: number of this process; it reads rows from ``process_index * batch_size / process_count`` on.
      process_count: number of processes; each reads its own ``batch_size / process_count`` rows of every batch.

    Raises:
      UserError: the batch size is below 1, above the source's length, or not a multiple of the processes.
    """
    if not 1 <= batch_size <= len(source):
        raise UserError(
            f"train.batch_size is {batch_size}; allowed: 1 to {len(source)}, the number of training examples"
        )
    if batch_size % process_count:
        raise UserError(f"train.batch_size is {batch_size}; allowed: multiples of the {process_count} processes")
    share = batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)
    numbers = grain.MapDataset.range(len(source))
    if len(source) < ENDLESS:
        numbers = numbers.seed(seed).shuffle().repeat(EPOCHS)
    batches = numbers.batch(batch_size).map(lambda batch: _stack([source[int(i)] for i in batch[mine]]))
    return iter(batches.to_iter_dataset(_READ))


def evaluation_batches(source: Source, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yield every example once, in order; of an endless source the first 1024.

    The last batch is padded with its last example. Each batch has ``mask`` (B,), 1 for examples and 0 for padding.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; allowed: 1 or more")
    count = len(source) if len(source) < ENDLESS else FIRST
    for start in range(0, count, batch_size):
        places = np.arange(start, start + batch_size)
        rows = [source[int(i)] for i in np.minimum(places, count - 1)]
        yield _stack(rows) | {"mask": (places < count).astype(np.float32)}


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
