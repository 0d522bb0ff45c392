"""Programs are lowered for a GPU, which needs none: their text says what they ask of its compiler."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.config.build import build_dvg
from dvg_jax.networks.init import init_variables
from dvg_jax.stages import build_stage
from tests.tiny import get_config


def lowered(stage_name: str) -> str:
    """Return the gradient of a stage's loss in bfloat16, its critics and LPIPS at work, lowered for a GPU."""
    config = get_config()
    config.dtype = "bfloat16"
    config.ct_vqgan.loss.update({"gan": 1.0, "feature_matching": 1.0, "perceptual": 1.0, "disc_width": 8})
    dvg = build_dvg(config)
    task = build_stage(stage_name, config, dvg).task
    z = jnp.zeros((2, 4, 4, 4, dvg.ct_vqgan.embedding_dim))
    examples = {
        "ct_vqgan": {"x": jnp.zeros((2, *dvg.geometry.volume_shape, 1))},
        "diffusion": {"z0": z, "condition_0": z, "condition_1": z},
    }
    example, key, step = examples[stage_name], jax.random.key(0), jnp.zeros((), jnp.int32)
    arguments = (*task.init(key, example), task.constants({}), example, key, step)
    traced = jax.jit(jax.value_and_grad(task.loss, has_aux=True)).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture(scope="module")
def vqgan() -> str:
    """Return the program of the CT's VQGAN with critics."""
    return lowered("ct_vqgan")


@pytest.fixture(scope="module")
def diffusion() -> str:
    """Return the program of g_theta."""
    return lowered("diffusion")


def test_every_convolution_of_a_step_in_bfloat16_is_in_bfloat16(vqgan):
    """Critics and LPIPS compute in the config's type as the network does; theirs are most of the convolutions."""
    found = re.findall(r"stablehlo\.convolution\(.*-> tensor<[\dx]+x(\w+)>", vqgan)
    assert len(found) > 60
    assert set(found) == {"bf16"}


def test_no_gradient_is_a_scatter(diffusion, vqgan):
    """A GPU adds the terms of a scatter in another order each time. Only codes collect counts and rows so."""
    assert '"stablehlo.scatter"' not in diffusion
    assert vqgan.count('"stablehlo.scatter"') == 3


def test_parameters_prepared_for_sampling_predict_the_same_bits():
    config = get_config()
    config.dtype = "bfloat16"
    denoiser = build_dvg(config).denoiser
    z = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 8))
    t = jnp.zeros(1, jnp.int32)
    params = init_variables(denoiser, jax.random.key(1), (z, z), z, t)["params"]
    ready = denoiser.prepared(params)
    types = {path[-1].key: leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(ready)}
    assert types["kernel"] == jnp.bfloat16
    assert types["bias"] == types["scale"] == types["gamma"] == jnp.float32
    predict = jax.jit(denoiser.predict)
    np.testing.assert_array_equal(predict((ready, (z, z)), z, t), predict((params, (z, z)), z, t))
