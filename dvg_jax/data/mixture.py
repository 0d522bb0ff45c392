"""Put sources together: by weight for training (:class:`Mixture`), one after the other for tests (:class:`Joined`)."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import jax
import numpy as np

from dvg_jax.data.augment import Spread, augment
from dvg_jax.data.sources import ENDLESS, Example, PhantomSource, Source, host_device
from dvg_jax.fingerprint import of_settings
from dvg_jax.keys import named


class Part(NamedTuple):
    """Describe a source's part in a mixture.

    Attributes:
      weight: share of the examples that come from it; those of a mixture sum to 1.
      spread: how its chests are varied; None for not at all.
    """

    source: Source
    weight: float
    spread: Spread | None


class Mixture:
    """Draw examples from sources by their weights; example i depends on the seed and on i alone.

    Of the first n examples every source gives its share, to within as many examples as there are sources. Phantoms come
    in order, each once. The scans of a folder come in laps, each in another order, and are varied anew each time.
    """

    def __init__(self, parts: Sequence[Part], count: int, seed: int):
        """Mix the parts in an epoch of ``count`` examples, or without end for 0."""
        self._parts, self._count, self._seed = parts, count, seed
        self._key = jax.device_put(named(jax.random.key(seed), "augment"), host_device())

    @cached_property
    def identity(self) -> str:
        """Return a digest of the sources' content, the weights, the spread, the count and the seed."""
        parts = [(part.source.identity, part.weight, part.spread and asdict(part.spread)) for part in self._parts]
        return of_settings({"mixture": parts, "count": self._count, "seed": self._seed})

    def __len__(self) -> int:
        return self._count or ENDLESS

    def __getitem__(self, index: int) -> Example:
        number, turn = self._place(index)
        source, _, spread = self._parts[number]
        if not isinstance(source, PhantomSource):
            lap, place = divmod(turn, len(source))
            turn = _order(self._seed, number, lap, len(source))[place]
        ct = source[turn]["ct"]
        if spread:
            ct = np.asarray(augment(ct[..., 0], jax.random.fold_in(self._key, index), spread))[..., None]
        return {"ct": ct, "index": np.int32(index)}

    def _place(self, index: int) -> tuple[int, int]:
        """Return the number of the source of an example, and how many examples before it come from that source."""
        left = 1.0
        for number, part in enumerate(self._parts[:-1]):
            share = part.weight / left
            before = int(index * share)
            if int((index + 1) * share) > before:
                return number, before
            index, left = index - before, left - part.weight
        return len(self._parts) - 1, index


@lru_cache(maxsize=1024)
def _order(seed: int, number: int, lap: int, count: int) -> list[int]:
    """Return the order in which the scans of a mixture's source come in one lap."""
    key = jax.device_put(named(jax.random.key(seed), "order"), host_device())
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, number), lap), count).tolist()


class Joined:
    """Serve sources one after the other.

    Attributes:
      patients: patient id of each case, or the phantom's number.
    """

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources
        self._ends = list(accumulate(map(len, sources)))
        self.patients = [patient for source in sources for patient in _patients(source)]

    @cached_property
    def identity(self) -> str:
        """Return a digest of the sources' content."""
        return of_settings([source.identity for source in self._sources])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        number = next(number for number, end in enumerate(self._ends) if index < end)
        source = self._sources[number]
        return source[index - self._ends[number] + len(source)] | {"index": np.int32(index)}


def _patients(source: Source) -> list[str]:
    return getattr(source, "patients", None) or [f"phantom {number}" for number in range(len(source))]
