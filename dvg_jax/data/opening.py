"""Open the sources that a config names: one, or several with weights.

    phantom                 random chests
    FOLDER                  scans prepared by dvg_jax.data.prepare
    phantom:0.7,FOLDER:0.3  both; three in ten examples of the training are scans

Weights are divided by their sum.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dvg_jax.data.augment import CHESTS
from dvg_jax.data.manifest import read_manifest
from dvg_jax.data.mixture import Joined, Mixture, Part
from dvg_jax.data.sources import PhantomSource, PreparedSource, Source
from dvg_jax.errors import UserError, did_you_mean, near_path

PHANTOM = "phantom"
FIELD = "config.data.source"
ONE_SOURCE = "phantom, or a folder by dvg_jax.data.prepare"
ALLOWED = {FIELD: f"{ONE_SOURCE}, or several, such as phantom:0.7,FOLDER:0.3"}
"""It maps a field to what it allows; all other fields take one source."""

MOST_WEIGHT = 1e6

FEW_SCANS = 5
"""A training set of fewer scans gives a warning: most likely scans are missing."""


class NamedSource(NamedTuple):
    """Hold the name of a source, which is ``phantom`` or a folder, and its weight; those of a config sum to 1."""

    name: str
    weight: float


def named_sources(text: str, field: str = FIELD) -> tuple[NamedSource, ...]:
    """Read ``NAME:WEIGHT,NAME:WEIGHT``; weights are left out by all for equal ones.

    An existing folder may have commas and colons in its name where it is the only source. Whether a source exists is
    left to those who open it.

    Args:
      text: value of the field.
      field: that errors name.

    Raises:
      UserError: a weight is not positive or is given to some sources only, or a source has no name or is named twice.
    """
    words = [text] if Path(text).is_dir() else [word.strip() for word in text.split(",")]
    found = [_name_and_weight(word, text, field) for word in words]
    names, weights = [name for name, _ in found], [weight for _, weight in found if weight is not None]
    if len({name if name == PHANTOM else Path(name).resolve() for name in names}) < len(names):
        raise UserError(f"{field} is {text!r}, which names a source twice; allowed: each once")
    if weights and len(weights) < len(names):
        raise UserError(
            f"{field} is {text!r}, which weighs some of its sources; allowed: a weight for each, or for none"
        )
    weights = weights or [1.0] * len(names)
    return tuple(NamedSource(name, weight / sum(weights)) for name, weight in zip(names, weights, strict=True))


def folders_of(text: str, field: str = FIELD) -> list[Path]:
    """Return the folders among the named sources; the arguments and errors are those of :func:`named_sources`."""
    return [Path(source.name) for source in named_sources(text, field) if source.name != PHANTOM]


def is_endless(text: str, count: int, augmented: bool) -> bool:
    """Tell whether :func:`open_training` gives examples without end for these arguments."""
    named = named_sources(text)
    return not count and (augmented or len(named) > 1 or named[0].name == PHANTOM)


def open_source(text: str, split: str, size: int, count: int = 0, seed: int = 0, field: str = FIELD) -> Source:
    """Open all cases of a split in their order; those of several sources follow each other.

    Args:
      text: value of the field, see :func:`named_sources`.
      split: name of the split.
      size: voxels along each axis.
      count: number of phantoms, 0 for phantoms without end; of a folder all scans of the split are taken.
      seed: seed of the phantoms.
      field: that errors name.

    Raises:
      UserError: a folder does not exist, or as :func:`named_sources` and the sources do.
    """
    found = [_open(source.name, split, size, count, seed) for source in _existing(text, field)]
    return found[0] if len(found) == 1 else Joined(found)


def open_training(text: str, size: int, count: int, seed: int, augmented: bool = False) -> Source:
    """Open the training set.

    Phantoms alone are the first ``count``; a folder alone, unless augmented, is its scans, whatever ``count`` is. All
    others are a :class:`Mixture`. Few scans give a warning on stderr, once.

    Args:
      text: value of ``config.data.source``, see :func:`named_sources`.
      size: voxels along each axis.
      count: examples of an epoch, 0 for examples without end.
      seed: seed of phantoms and of what a mixture draws.
      augmented: vary the chests of folders.

    Raises:
      UserError: as :func:`open_source`; folders have a patient in different splits; only phantoms are to be augmented.
    """
    named, folders = _existing(text, FIELD), folders_of(text)
    if augmented and not folders:
        raise UserError(f"config.data.augment is True with phantoms alone; allowed: False, or a folder in {FIELD}")
    if len(folders) > 1:
        _check_patients(folders)
    parts = [
        Part(_open(name, "train", size, count, seed), weight, CHESTS if augmented and name != PHANTOM else None)
        for name, weight in named
    ]
    scans = [len(part.source) for part in parts if isinstance(part.source, PreparedSource)]
    if scans and sum(scans) < FEW_SCANS:
        _say_few(", ".join(map(str, folders)), sum(scans))
    return parts[0].source if len(parts) == 1 and not augmented else Mixture(parts, count, seed)


def _open(name: str, split: str, size: int, count: int, seed: int) -> Source:
    return _phantoms(count, size, seed, split) if name == PHANTOM else PreparedSource(name, split, size)


# Every stage of a run opens the same phantoms: they are drawn once.
_phantoms = cache(PhantomSource)


def _name_and_weight(word: str, text: str, field: str) -> tuple[str, float | None]:
    """Split one of the sources in ``text``; what follows the last colon is a weight only if it is a number."""
    name, weight = word, None
    if not Path(word or ".").is_dir() and ":" in word:
        before, _, after = word.rpartition(":")
        with suppress(ValueError):
            name, weight = before.strip(), float(after)
    if not name:
        raise UserError(f"{field} is {text!r}, with a source without a name; allowed: {ALLOWED.get(field, ONE_SOURCE)}")
    if weight is not None and not 0 < weight <= MOST_WEIGHT:
        raise UserError(f"{field} is {text!r}, with the weight {weight:g}; allowed: above 0, up to {MOST_WEIGHT:g}")
    return name, weight


def _existing(text: str, field: str) -> tuple[NamedSource, ...]:
    """Return the named sources. Raises UserError where one is neither phantoms nor a folder."""
    named = named_sources(text, field)
    for name, _ in named:
        if name != PHANTOM and not Path(name).is_dir():
            what = "a file" if Path(name).exists() else "which does not exist"
            near = did_you_mean(name, (PHANTOM,)) or near_path(Path(name))
            verb = "is" if name == text else "names"
            raise UserError(f"{field} {verb} {name!r}, {what}{near}; allowed: {ALLOWED.get(field, ONE_SOURCE)}")
    return named


def _check_patients(folders: Sequence[Path]) -> None:
    """Refuse folders that have a patient in different splits, who would be trained on and tested."""
    places: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        for row in read_manifest(folder):
            if row.status == "ok" and row.split:
                split, first = places.setdefault(row.patient, (row.split, folder))
                if split != row.split:
                    raise UserError(
                        f"{folder}: patient {row.patient} is in split {row.split!r}, and in {split!r} in {first}; "
                        "allowed: one split, as dvg_jax.data.prepare gives with the same --seed and shares, or lists"
                    )


def check_unseen(tested: str, trained: str, field: str) -> None:
    """Refuse test cases of a patient who is trained on.

    Args:
      tested: value of ``field``: the sources of the test cases.
      trained: value of ``config.data.source``.
      field: that errors name.

    Raises:
      UserError: a patient is in the split ``test`` of the one and ``train`` of the other; or as :func:`named_sources`.
    """
    seen = {patient: folder for folder in folders_of(trained) for patient in _patients(folder, "train")}
    for folder in folders_of(tested, field):
        for patient in _patients(folder, "test"):
            if patient in seen:
                raise UserError(
                    f"{field} is {tested!r}, whose patient {patient} is in split 'train' of {seen[patient]}; "
                    "allowed: patients who are not trained on"
                )


def _patients(folder: Path, split: str) -> set[str]:
    """Return the patients of a split, none where the folder does not exist, which is refused when it is opened."""
    rows = read_manifest(folder) if folder.is_dir() else ()
    return {row.patient for row in rows if row.status == "ok" and row.split == split}


@cache
def _say_few(folder: str, scans: int) -> None:
    few = f"{scans} scan{'s' if scans > 1 else ''} in split 'train'"
    print(f"warning: {folder}: {few}: a model learns these patients and no others", file=sys.stderr)
