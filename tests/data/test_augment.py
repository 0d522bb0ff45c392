"""Chests are varied within their bounds, by the key alone."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.data.augment import CHESTS, Spread, _places, augment
from dvg_jax.data.sources import PreparedSource

SHIPPED = Path(__file__).parents[2] / "examples" / "scans32"
SIZE = 16
VOXEL = FIELD_MM / SIZE
STILL = Spread(rotation_deg=0, scale=0, shift_mm=0, bend_mm=0, gain=0, noise_hu=0)


def keys(count):
    return [jax.random.fold_in(jax.random.key(5), i) for i in range(count)]


@pytest.fixture(scope="module")
def ct():
    """Return one of the shipped scans with half as many voxels along each axis."""
    scan = PreparedSource(SHIPPED, "test", 2 * SIZE)[0]["ct"]
    return scan.reshape((SIZE, 2) * 3).mean(axis=(1, 3, 5))


@pytest.fixture(scope="module")
def ball():
    """Return a ball of 60 mm in air."""
    axis = (np.arange(SIZE) + 0.5) * VOXEL - FIELD_MM / 2
    distance = np.sqrt(sum(part**2 for part in np.meshgrid(axis, axis, axis)))
    return np.clip((80 - distance) / 40, 0, 1).astype(np.float32) / 2


def centre_mm(volume):
    """Return the centre of mass along D, H, W, from the cube's middle."""
    places = np.indices(volume.shape) * VOXEL + VOXEL / 2 - FIELD_MM / 2
    return (places * volume).sum(axis=(1, 2, 3)) / volume.sum()


def test_the_same_key_gives_the_same_bits_and_another_key_another_chest(ct):
    first, other = keys(2)
    np.testing.assert_array_equal(augment(ct, first), augment(ct, first))
    assert np.abs(np.asarray(augment(ct, first)) - augment(ct, other)).mean() > 0.01


def test_nothing_changes_where_nothing_may(ct):
    np.testing.assert_allclose(augment(ct, keys(1)[0], STILL), ct, atol=1e-6)


def test_values_stay_intensities_and_air_stays_air(ct):
    for key in keys(4):
        varied = np.asarray(augment(ct, key))
        assert varied.dtype == np.float32
        assert varied.min() >= 0
        assert varied.max() <= 1
    assert not np.asarray(augment(np.zeros_like(ct), keys(1)[0])).any()


def test_a_shift_has_its_length(ball):
    shifts = np.array([centre_mm(np.asarray(augment(ball, key, replace(STILL, shift_mm=15)))) for key in keys(40)])
    assert np.abs(shifts).max() < 15.5
    assert np.all(np.abs(shifts).max(axis=0) > 12)  # of 40 even draws in each direction
    assert np.all(np.abs(shifts.mean(axis=0)) < 4.5)  # 3 standard errors


def test_a_scale_has_its_size(ball):
    volumes = np.array([np.asarray(augment(ball, key, replace(STILL, scale=0.08))).sum() for key in keys(40)])
    ratio = volumes / ball.sum()
    assert 0.92**3 - 0.02 < ratio.min() < 0.95
    assert 1.05 < ratio.max() < 1.08**3 + 0.02


def test_a_turn_about_every_axis_keeps_lengths_and_has_its_bound():
    still = np.asarray(_places(keys(1)[0], SIZE, STILL))
    angles = []
    for key in keys(40):
        turned = np.asarray(_places(key, SIZE, replace(STILL, rotation_deg=6)))
        # Where neighbours along an axis end up gives the matrix, column by column.
        matrix = np.stack([(np.diff(turned, axis=axis)[(slice(None), 0, 0, 0)]) for axis in (1, 2, 3)], axis=1)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)
        np.testing.assert_allclose(turned.mean(axis=(1, 2, 3)), still.mean(axis=(1, 2, 3)), atol=1e-4)
        angles.append(Rotation.from_matrix(matrix).as_euler("xyz", degrees=True))
    assert np.all(np.abs(angles).max(axis=0) <= 6.01)
    assert np.all(np.abs(angles).max(axis=0) > 5)


def test_a_deformation_is_small_and_smooth(ct):
    still = np.asarray(_places(keys(1)[0], SIZE, STILL))
    for key in keys(4):
        offset = VOXEL * (np.asarray(_places(key, SIZE, replace(STILL, bend_mm=4))) - still)
        assert 2 < np.abs(offset).max() < 8
        for axis in (1, 2, 3):
            assert np.abs(np.diff(offset, axis=axis)).max() < 0.25 * VOXEL  # nothing folds


def test_the_gain_and_the_noise_are_those_stated(ct):
    flat = np.full_like(ct, 0.4)
    gains = [float(np.mean(augment(flat, key, replace(STILL, gain=0.03)))) / 0.4 - 1 for key in keys(40)]
    assert 0.025 < np.max(np.abs(gains)) <= 0.03001
    bound = 12 / 2500 * 2.5 / VOXEL
    noise = [float(np.std(augment(flat, key, replace(STILL, noise_hu=12)))) for key in keys(40)]
    assert 0.8 * bound < max(noise) < 1.1 * bound
    assert min(noise) < 0.2 * bound


def test_what_touches_a_face_goes_on_behind_it():
    varied = [
        np.asarray(augment(np.ones((SIZE,) * 3, np.float32), key, replace(CHESTS, noise_hu=0))) for key in keys(3)
    ]
    assert min(volume.min() for volume in varied) >= 0.97 - 1e-5


def test_left_and_right_are_exchanged_only_where_asked(ct):
    np.testing.assert_allclose(augment(ct, keys(1)[0], replace(STILL, mirrored=1.0)), ct[..., ::-1], atol=1e-6)
    for key in keys(10):
        varied = np.asarray(augment(ct, key, replace(CHESTS, rotation_deg=0, shift_mm=0)))
        same, mirrored = (np.corrcoef(varied.ravel(), other.ravel())[0, 1] for other in (ct, ct[..., ::-1]))
        assert same > mirrored
