"""Pre-processing of the published code: golden arrays, scipy, Pillow."""

import numpy as np
import pytest
from scipy import ndimage

from dvg_jax.data.scans import published
from dvg_jax.errors import UserError
from tests.paths import GOLDEN, needs_shared


@needs_shared
@pytest.mark.parametrize("size", [16, 24])
def test_golden_ct(size, report):
    file = f"preprocess_{size}.npz"
    golden = np.load(GOLDEN / file)
    shape = tuple(golden["size"])
    resized, final = published.resize_linear(golden["raw"], shape), published.prepare_ct(golden["raw"], shape)
    for name, ours in (("resized", resized), ("final", final)):
        assert ours.dtype == golden[name].dtype
        error = np.abs(ours - golden[name]).max() / np.abs(golden[name]).max()
        report(file=file, name=name, error=float(error), tolerance=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((20, 26, 23), (16, 30, 24)),
        ((1, 7, 9), (4, 1, 9)),
        ((63, 5, 55), (24, 4, 24)),  # 62 / 23 * 23 is rounded up: scipy's last plane is 0
    ],
)
def test_resize_is_scipys_zoom(before, after, dtype):
    rng = np.random.default_rng(0)
    raw = (rng.normal(size=before) * 1000 + (4000 if dtype == np.uint16 else 0)).astype(dtype)
    expected = ndimage.zoom(raw, [b / a for a, b in zip(before, after, strict=True)], order=1)
    resized = published.resize_linear(raw, after)
    assert resized.dtype == expected.dtype
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-11 if dtype == np.float64 else 0)


def test_ct_is_clipped_and_rounded():
    raw = np.array([-50.0, 0.0, 1234.5678, 2500.0, 9000.0]).reshape(5, 1, 1)
    final = published.prepare_ct(raw, (5, 1, 1))
    assert final.dtype == np.float32
    np.testing.assert_array_equal(final.ravel(), np.float32([0, 0, 0.493827, 1, 1]))


@pytest.mark.parametrize("raw", [np.zeros((4, 4)), np.zeros((0, 4, 4)), np.full((2, 2, 2), np.nan)])
def test_a_ct_that_is_none_is_refused(raw):
    with pytest.raises(UserError, match="allowed"):
        published.prepare_ct(raw, (2, 2, 2))


def test_a_large_film_is_halved_by_means_of_pairs():
    """640 to 320 to 160, no bicubic step left. Whole greys after each pass, halves upwards: columns, then rows."""
    picture = np.random.default_rng(1).integers(0, 256, (640, 680), np.uint8)
    small = picture.astype(int)
    for _ in range(2):
        small = (small[:, ::2] + small[:, 1::2] + 1) // 2
        small = (small[::2] + small[1::2] + 1) // 2
    film = published.prepare_film(picture)
    assert film.dtype == np.float32
    np.testing.assert_allclose(film * 255, small[16:-16, 21:-21], atol=1e-4)


def test_a_film_is_enlarged_by_a_bicubic_that_keeps_ramps():
    """80 x 120 doubled; the middle 128 of 160 x 240 are pixels 16..144 and 56..184."""
    film = published.prepare_film(np.tile(np.arange(120, dtype=np.uint8) * 2, (80, 1)))
    expected = 2 * ((np.arange(56, 184) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(film * 255, np.tile(expected, (128, 1)), atol=0.51)


def test_rows_stay_in_order_and_the_middle_is_kept():
    picture = np.zeros((160, 160), np.uint8)
    picture[16, 16] = 255
    film = published.prepare_film(picture)
    assert film[0, 0] == 1
    assert film.sum() == 1


@pytest.mark.parametrize("picture", [np.zeros((200, 200)), np.zeros((200, 200, 3), np.uint8)])
def test_a_picture_of_another_kind_is_refused(picture):
    with pytest.raises(UserError, match="allowed"):
        published.prepare_film(picture)
