"""The input pipeline: every example once an epoch, shared out among processes, continued exactly."""

import json

import numpy as np
import pytest

from dvg_jax.data.pipeline import evaluation_batches, training_iterator
from dvg_jax.data.sources import ArraySource
from dvg_jax.errors import UserError


def source(n=10):
    return ArraySource({"x": np.arange(n, dtype=np.float32)[:, None]})


def draw(iterator, count):
    return [next(iterator)["x"][:, 0].astype(int).tolist() for _ in range(count)]


def test_an_epoch_holds_every_example_once_and_the_next_is_another_order():
    seen = [i for batch in draw(training_iterator(source(), 5, seed=0), 4) for i in batch]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_the_seed_decides_the_order():
    first, again, other = (draw(training_iterator(source(), 2, seed=s), 5) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_batches_of_one_do_not_end():
    assert len(draw(training_iterator(source(3), 1, seed=0), 50)) == 50


def test_two_processes_draw_together_what_one_draws_alone():
    alone = draw(training_iterator(source(), 4, 0), 6)
    parts = [draw(training_iterator(source(), 4, 0, i, 2), 6) for i in range(2)]
    for whole, a, b in zip(alone, *parts, strict=True):
        assert sorted(whole) == sorted(a + b)


def test_state_continues_the_sequence():
    iterator = training_iterator(source(), 3, 0)
    draw(iterator, 4)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = draw(iterator, 5)
    resumed = training_iterator(source(), 3, 0)
    resumed.set_state(state)
    assert draw(resumed, 5) == expected


def test_evaluation_covers_everything_in_order_and_masks_the_rest():
    batches = list(evaluation_batches(source(), 4))
    assert [b["x"].shape for b in batches] == [(4, 1)] * 3
    np.testing.assert_array_equal(batches[-1]["mask"], [1, 1, 0, 0])
    kept = np.concatenate([b["x"][b["mask"] > 0] for b in batches])[:, 0]
    np.testing.assert_array_equal(kept, np.arange(10))


@pytest.mark.parametrize(("size", "processes"), [(0, 1), (11, 1), (3, 2)])
def test_impossible_batch_sizes(size, processes):
    with pytest.raises(UserError, match=f"batch_size is {size}; allowed"):
        training_iterator(source(), size, 0, 0, processes)
