"""One model for any set of views: what its stages learn from, and that a fixed set is the same thing as its draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.config import check, default_config
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import any_views, tiny
from dvg_jax.data.phantom import chest
from dvg_jax.errors import UserError
from dvg_jax.reconstruct.reconstructor import Reconstructor
from dvg_jax.stages import build_stage
from dvg_jax.xray.views import random_view_sets
from tests.tiny import get_config


def config_of(**fields):
    config = get_config()
    config.update({"random_views": 3, "new_angles": (), **fields})
    return config


@pytest.fixture(scope="module")
def cts():
    return jnp.stack([jax.jit(chest, static_argnums=1)(jax.random.key(i), 16) for i in (0, 1)])[..., None]


def test_an_example_is_the_mean_over_the_set_that_its_key_draws(cts):
    config = config_of()
    dvg = build_dvg(config)
    prepare = build_stage("view_vqgan", config, dvg).prepare
    key = jax.random.key(3)
    sets = random_view_sets(key, 2, 3)
    example = prepare({}, cts, key)["x"]
    for i, (angles, weights) in enumerate(zip(np.asarray(sets.angles), np.asarray(sets.weights), strict=True)):
        shown = tuple(float(a) for a in angles[weights > 0])
        expected = dvg.lift(dvg.render(cts[i : i + 1], shown), shown)
        # The two forms of the projector sample a ray at different places: 5 to 8 % of a view at 16^3.
        error = np.asarray(example[i] - expected[0])
        assert np.sqrt(np.mean(error**2) / np.mean(np.asarray(expected) ** 2)) < 0.08
    np.testing.assert_array_equal(example, prepare({}, cts, key)["x"])
    assert not np.allclose(example, prepare({}, cts, jax.random.key(4))["x"], atol=0.05)


def test_without_it_examples_draw_nothing(cts):
    config = get_config()
    prepare = build_stage("view_vqgan", config, build_dvg(config)).prepare
    first, second = (prepare({}, cts, jax.random.key(i))["x"] for i in (0, 1))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("fields", [{"new_angles": (45.0,)}, {"use_vpge": False}, {"random_views": -1}])
def test_switches_that_do_not_go_with_it_are_refused(fields):
    with pytest.raises(UserError, match="random_views"):
        check(config_of(**fields))


def test_the_trained_model_takes_any_set_and_no_more_than_it_was_trained_for():
    config = config_of()
    reconstructor = Reconstructor(config, build_dvg(config), {})
    for count in (0, 4):
        with pytest.raises(UserError, match="allowed: 1 to 3 views"):
            reconstructor(np.zeros((count, 16, 16)), tuple(range(0, 30 * count, 30)))
    with pytest.raises(UserError, match=r"allowed: \(2, 16, 16\)"):
        reconstructor(np.zeros((2, 8, 8)), (33.0, 250.0))


@pytest.mark.parametrize("preset", [tiny, default_config])
def test_preset(preset):
    config = preset()
    any_views(config)
    check(config)
    assert (config.random_views, tuple(config.new_angles)) == (20, ())
    assert not any(config[name].train.cache for name in ("view_vqgan", "new_view", "diffusion", "refine"))
