"""The refiner's network works on cells of voxels, has the stated size and starts quietly."""

import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.networks.init import init_variables
from dvg_jax.networks.refiner import STEP, Refiner, from_cells, to_cells

TINY = Refiner(widths=(8, 8), num_groups=4)


def test_cells_hold_each_voxel_once():
    x = jnp.arange(2 * 4 * 6 * 8 * 3, dtype=jnp.float32).reshape(2, 4, 6, 8, 3)
    cells = to_cells(x)
    assert cells.shape == (2, 2, 3, 4, 24)
    np.testing.assert_array_equal(np.sort(cells[1, 1, 2, 3]), np.sort(np.ravel(x[1, 2:, 4:, 6:])))
    np.testing.assert_array_equal(from_cells(cells), x)


def test_parameters_at_default_width():
    found = jax.eval_shape(Refiner().init, jax.random.key(0), jnp.zeros((1, 32, 32, 32, 6)))
    assert sum(leaf.size for leaf in jax.tree.leaves(found)) == 1_504_808


def test_change_has_the_cts_size_and_an_untrained_one_is_small():
    x = jax.random.uniform(jax.random.key(0), (1, 8, 16, 8, 6))
    change = jax.jit(TINY.apply)(init_variables(TINY, jax.random.key(1), x), x)
    assert change.shape == (1, 8, 16, 8, 1)
    assert 0 < float(jnp.abs(change).max()) < STEP
