"""Files that damage or a stranger changed: each reader refuses them in a line or gives a result, and nothing else.

The changes are seeded: ``tests/chaos/readers.py`` makes more of them, each in a process of its own.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.chaos.children import READ, REFUSED, outcome
from tests.chaos.mutations import mutated
from tests.chaos.readers import READERS, check, same

MUTATIONS = 200


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_changed_files_are_refused_or_read(name: str, tmp_path: Path):
    reader = READERS[name]
    path = reader.write(tmp_path)
    data, expected = path.read_bytes(), reader.read(path)
    wrong = {}
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(data, seed, reader.text))
        found = outcome(lambda changed: check(reader, expected, changed), path)
        if found != READ and not found.startswith(REFUSED):
            wrong[seed] = found
    assert not wrong


def test_changes_are_seeded_and_none_is_empty():
    data = bytes(range(256)) * 8
    made = [mutated(data, seed) for seed in range(MUTATIONS)]
    assert made == [mutated(data, seed) for seed in range(MUTATIONS)]
    assert data not in made
    assert len(set(made)) > 0.9 * MUTATIONS


def test_other_values_are_seen():
    assert same([np.arange(3)], [np.arange(3)])
    assert not same([np.arange(3)], [np.arange(4)])
    assert not same([np.arange(3)], [])
