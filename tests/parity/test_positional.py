"""Where a token is: buckets of the relative position bias, and the rotary embedding."""

import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks.positional import relative_buckets, rotate
from tests.parity.errors import elementwise, relative
from tests.parity.golden import EXACT, FOLDERS, TABLES, load


@pytest.mark.parametrize("folder", FOLDERS)
def test_buckets_and_rotations(folder, report):
    file, golden = load(folder, "positional.npz")
    name = "bucket_n40_row_query_col_key"
    report(file=file, name=name, error=relative(relative_buckets(40), golden[name]), tolerance=EXACT)

    turned = jnp.moveaxis(rotate(jnp.moveaxis(golden["rotary_in"], 2, 1)), 1, 2)
    report(file=file, name="rotary_out", error=relative(turned, golden["rotary_out"]), tolerance=TABLES)

    # Token 1 turns the pair (1, 0) by the frequency itself.
    cos, sin = np.asarray(rotate(jnp.tile(jnp.array([1.0, 0.0]), (1, 2, 16)))[0, 1], np.float64).reshape(16, 2).T
    error = elementwise(np.arctan2(sin, cos), golden["rotary_freqs"])
    report(file=file, name="rotary_freqs", error=error, tolerance=TABLES)
