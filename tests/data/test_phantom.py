"""Random chests: anatomy where it belongs, people that differ, the same person from the same key."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from dvg_jax.data.phantom import chest, chest_hu
from dvg_jax.data.sources import PhantomSource

SIZE = 32
draw = jax.jit(chest_hu, static_argnums=1)


@pytest.fixture(scope="module")
def people():
    return np.stack([draw(jax.random.key(i), SIZE) for i in range(8)])


def test_the_same_key_draws_the_same_person(people):
    np.testing.assert_array_equal(people[3], draw(jax.random.key(3), SIZE))
    assert all(np.abs(people[i] - people[i + 1]).mean() > 10 for i in range(7))


def test_values_are_those_of_tissue(people):
    assert np.isfinite(people).all()
    assert people.min() >= -1100
    assert 300 < people.max() < 2000


def test_two_lungs_right_and_left_inside_the_body(people):
    for hu in people:
        air = (hu > -980) & (hu < -500)
        labels, count = ndimage.label(ndimage.binary_erosion(air))
        assert count >= 1
        lung = air[SIZE // 2]
        assert lung[:, : SIZE // 2].sum() > 5
        assert lung[:, SIZE // 2 :].sum() > 5
        assert labels[0].sum() == 0  # the lowest slice is abdomen


def test_spine_behind_liver_on_the_right_heart_on_the_left(people):
    mean = people.mean(0)
    bone = (people > 250).mean(0)
    assert bone[:, SIZE // 2 :].sum() > 2 * bone[:, : SIZE // 2].sum()
    low = mean[6:10, 8:22]
    assert low[..., 6:14].mean() > low[..., 18:26].mean()  # liver against stomach and fat
    heart = mean[12:18, 6:16]
    assert heart[..., 17:22].mean() > heart[..., 10:15].mean()


def test_intensity_is_the_window_of_hu():
    key = jax.random.key(0)
    expected = np.clip(np.asarray(draw(key, SIZE)) + 1024, 0, 2500) / 2500
    np.testing.assert_allclose(jax.jit(chest, static_argnums=1)(key, SIZE), expected, atol=1e-5)


def test_train_and_test_people_differ_and_each_is_reproducible():
    train, test = PhantomSource(4, 16, split="train"), PhantomSource(4, 16, split="test")
    np.testing.assert_array_equal(train[2]["ct"], PhantomSource(8, 16, split="train")[2]["ct"])
    assert not any(np.array_equal(train[i]["ct"], test[j]["ct"]) for i in range(4) for j in range(4))
    with pytest.raises(IndexError):
        train[4]
