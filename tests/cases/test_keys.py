"""Random streams belong to names: a stage or split added in front changes no other's numbers."""

import jax
import numpy as np
import pytest

from dvg_jax.data import sources
from dvg_jax.keys import digest, named
from dvg_jax.training import loop
from dvg_jax.training.run import train
from tests.cases import toy


def key_data(key):
    return jax.random.key_data(key).tolist()


def keys_of(monkeypatch, tmp_path):
    """Return the key of every stage of a run."""
    with monkeypatch.context() as patch:
        toy.toys(patch)
        keys = {}
        patch.setattr(loop.StageRun, "run", lambda self: keys.update({self.stage.name: key_data(self.key)}))
        patch.setattr("dvg_jax.training.run.load_stages", lambda *_, **__: {name: {} for name in toy.STAGES})
        train(toy.config(), tmp_path)
    return keys


def test_a_stage_in_front_changes_no_other_stage(monkeypatch, tmp_path):
    before = keys_of(monkeypatch, tmp_path)
    assert len({tuple(key) for key in before.values()}) == len(toy.STAGES)
    monkeypatch.setattr(loop, "STAGES", ("new", *toy.STAGES), raising=False)
    assert keys_of(monkeypatch, tmp_path) == before


@pytest.mark.parametrize(("split", "stream"), [("train", 0), ("test", 1), ("val", 2), ("new", digest("new"))])
def test_a_split_in_front_changes_no_phantom(monkeypatch, split, stream):
    """The figures in docs/results were made with these streams."""
    monkeypatch.setattr(sources, "SPLITS", ("new", *sources.SPLITS))
    found = sources.PhantomSource(1, 4, seed=3, split=split)._key
    assert key_data(found) == key_data(jax.random.fold_in(jax.random.key(3), stream))


def test_first_weights_do_not_depend_on_the_length_of_training(monkeypatch, tmp_path):
    toy.toys(monkeypatch)
    first, create = [], loop.create

    def kept(*arguments):
        state = create(*arguments)
        first.append(np.asarray(state.params["model"]["w"]))
        return state

    monkeypatch.setattr(loop, "create", kept)
    for steps in (2, 4):
        train(toy.config(**{"stage": "ct_vqgan", "ct_vqgan.train.steps": steps}), tmp_path / str(steps))
    np.testing.assert_array_equal(*first)


def test_names_are_told_apart_and_stay():
    key = jax.random.key(0)
    assert digest("ct_vqgan") == 3772526497
    assert key_data(named(key, "a")) != key_data(named(key, "b")) != key_data(key)
