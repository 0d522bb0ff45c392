"""The mean chest that films are framed by is stored, and is that of the phantom."""

import numpy as np

from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.data.films import mean_chest
from dvg_jax.data.films.template import thorax_template


def test_the_stored_mean_is_that_of_the_phantom():
    """If this fails after a change of the phantom, run python -m dvg_jax.data.films.mean_chest."""
    steps, lungs = mean_chest.draw_mean()
    intensity, share = mean_chest.stored_mean()
    # Another version of XLA rounds otherwise: by a step, and a voxel at a threshold may fall to its other side.
    step = mean_chest.STEP_HU / HU_RANGE
    np.testing.assert_allclose(intensity, steps * step, atol=1.01 * step)
    assert np.mean(share != lungs / np.float32(mean_chest.CASES)) < 1e-3


def test_a_template_is_made_without_drawing_a_phantom(monkeypatch):
    """Drawing and compiling the phantom would take most of the time before a command frames its first film."""
    drawn = []
    monkeypatch.setattr(mean_chest, "plain_chest", lambda key: drawn.append(key))
    mean_chest.stored_mean.cache_clear()
    layers, _ = thorax_template.__wrapped__(0.0)
    assert layers[0].picture.max() == 1
    assert not drawn
