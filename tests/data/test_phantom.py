"""Random chests: anatomy where it belongs, people that differ, the same person from the same key."""

import numpy as np
import pytest
from scipy import ndimage

from dvg_jax.ct.intensity import hu_to_intensity, intensity_to_hu
from dvg_jax.data.sources import PhantomSource

SIZE = 32


@pytest.fixture(scope="module")
def people():
    source = PhantomSource(8, SIZE)
    return np.stack([intensity_to_hu(source[i]["ct"][..., 0]) for i in range(8)])


def test_the_same_key_draws_the_same_person(people):
    again = PhantomSource(20, SIZE)[3]["ct"][..., 0]
    np.testing.assert_array_equal(people[3], intensity_to_hu(again))
    assert all(np.abs(people[i] - people[i + 1]).mean() > 10 for i in range(7))


def test_values_are_those_of_tissue(people):
    assert np.isfinite(people).all()
    assert people.min() == pytest.approx(-1000, abs=0.1)  # air
    assert 300 < people.max() <= 1476


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
    # Below the heart, whose chambers may hold contrast medium, the midline's bone is the spine.
    midline = (people > 250).mean(0)[:10, :, 13:19]
    assert midline[:, SIZE // 2 :].sum() > 4 * midline[:, : SIZE // 2].sum()
    low = mean[:8, 8:22]  # below the right dome: liver against stomach, spleen and fat
    assert low[..., 6:14].mean() > low[..., 18:26].mean() + 50
    heart = mean[12:18, 6:16]
    assert heart[..., 17:22].mean() > heart[..., 10:15].mean()


def test_test_people_are_others_than_training_people(people):
    test = PhantomSource(4, SIZE, split="test")
    others = [intensity_to_hu(test[i]["ct"][..., 0]) for i in range(4)]
    assert min(np.abs(a - b).mean() for a in people for b in others) > 10
    with pytest.raises(IndexError):
        test[4]


def test_intensity_is_the_window_of_hu():
    hu = np.array([-2000.0, -1024.0, 0.0, 1476.0, 3000.0])
    np.testing.assert_allclose(hu_to_intensity(hu), [0, 0, 1024 / 2500, 1, 1], atol=1e-6)
    np.testing.assert_allclose(intensity_to_hu(hu_to_intensity(hu)), np.clip(hu, -1024, 1476), atol=1e-3)
