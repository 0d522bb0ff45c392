"""Pre-processing of the published code: golden arrays."""

import numpy as np
import pytest

from dvg_jax.data.scans import published
from dvg_jax.errors import UserError
from tests.paths import GOLDEN, needs_shared


@needs_shared
@pytest.mark.parametrize("size", [16, 24])
def test_golden_ct(size, report):
    file = f"preprocess_{size}.npz"
    golden = np.load(GOLDEN / file)
    final = published.prepare_ct(golden["raw"], tuple(golden["size"].tolist()))
    assert final.dtype == golden["final"].dtype
    error = np.abs(final - golden["final"]).max() / np.abs(golden["final"]).max()
    report(file=file, name="final", error=float(error), tolerance=1e-12)


def test_ct_is_clipped_and_rounded():
    raw = np.array([-50.0, 0.0, 1234.5678, 2500.0, 9000.0]).reshape(5, 1, 1)
    final = published.prepare_ct(raw, (5, 1, 1))
    assert final.dtype == np.float32
    np.testing.assert_array_equal(final.ravel(), np.float32([0, 0, 0.493827, 1, 1]))


@pytest.mark.parametrize("raw", [np.zeros((4, 4)), np.zeros((0, 4, 4)), np.full((2, 2, 2), np.nan)])
def test_a_ct_that_is_none_is_refused(unchecked, raw):
    with pytest.raises(UserError, match="allowed"):
        published.prepare_ct(raw, (2, 2, 2))
