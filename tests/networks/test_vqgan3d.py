"""The 3D VQGAN equals the published network, at any size the config asks for."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import torch_import
from dvg_jax.errors import UserError
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.vqgan3d import VQGAN3D, commitment
from tests.paths import GOLDEN, GOLDEN_SMALL, needs_shared

FOLDERS = [GOLDEN_SMALL, pytest.param(GOLDEN, marks=needs_shared)]


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(vqgan, variables, x, method="__call__"):
    return vqgan.apply(variables, x, method=method)


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.fixture(scope="module", params=FOLDERS)
def published(request):
    golden = np.load(request.param / "vqgan.npz")
    state = {key.removeprefix("sd/"): golden[key] for key in golden.files if key.startswith("sd/")}
    groups = json.loads(str(golden["config_json"]))["num_groups"]
    return golden, *torch_import.vqgan3d(state, num_groups=groups)


def test_encode_quantize_decode_equal_the_published(published):
    golden, vqgan, variables = published
    x = channels_last(golden["x"])
    latent = run(vqgan, variables, x, "encode")
    np.testing.assert_allclose(latent, channels_last(golden["latent_prequant"]), atol=2e-5)
    codes, indices = run(vqgan, variables, latent, "quantize")
    np.testing.assert_array_equal(indices, golden["encodings"])
    np.testing.assert_allclose(codes, channels_last(golden["embeddings"]), atol=1e-5)
    volume = run(vqgan, variables, codes, "decode")
    np.testing.assert_allclose(volume, channels_last(golden["decoded_quantized"]), atol=2e-5)
    assert float(commitment(latent, codes)) == pytest.approx(float(golden["commitment_loss"]) / 0.25, rel=1e-4)


def test_a_whole_pass_is_its_parts_and_sends_gradients_past_the_codes(published):
    golden, vqgan, variables = published
    x = channels_last(golden["x"])
    out = run(vqgan, variables, x)
    np.testing.assert_allclose(out.volume, channels_last(golden["decoded_quantized"]), atol=2e-5)

    def through_codes(latent):
        codes, _ = run(vqgan, variables, latent, "quantize")
        return jnp.sum(latent + jax.lax.stop_gradient(codes - latent))

    np.testing.assert_array_equal(jax.grad(through_codes)(out.latent), jnp.ones_like(out.latent))


def count(module, method, shape):
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, method=method), jnp.zeros(shape))
    return {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in variables["params"].items()}


def test_parameter_counts_at_paper_scale():
    counts = count(VQGAN3D(), None, (1, 16, 16, 16, 1))
    assert counts == {"encoder": 441_568, "pre_vq_conv": 520, "post_vq_conv": 576, "decoder": 948_417}


def test_uneven_downsampling():
    vqgan = VQGAN3D(4, (2, 4, 4), 3, 16, num_groups=4, decoder_res_blocks=1)
    x = jnp.zeros((1, 4, 8, 8, 1))
    variables = init_variables(vqgan, jax.random.key(0), x)
    latent = run(vqgan, variables, x, "encode")
    assert latent.shape == (1, 2, 2, 2, 3)
    assert run(vqgan, variables, latent, "decode").shape == x.shape


@pytest.mark.parametrize(("field", "value"), [("downsample", (3, 4, 4)), ("num_groups", 5)])
def test_impossible_sizes_are_refused(field, value):
    vqgan = VQGAN3D(**({"n_hiddens": 4, "n_codes": 8, "num_groups": 4} | {field: value}))
    with pytest.raises(UserError, match=f"{field} is"):
        jax.eval_shape(vqgan.init, jax.random.key(0), jnp.zeros((1, 8, 8, 8, 1)))


def test_bfloat16_compute_keeps_float32_weights_and_latents():
    vqgan = VQGAN3D(4, (4, 4, 4), 8, 16, num_groups=4, decoder_res_blocks=1, dtype=jnp.bfloat16)
    x = jax.random.uniform(jax.random.key(1), (1, 8, 8, 8, 1))
    variables = init_variables(vqgan, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    out = run(vqgan, variables, x)
    exact = run(vqgan.clone(dtype=jnp.float32), variables, x)
    assert out.latent.dtype == out.volume.dtype == jnp.float32
    # Eight bits of mantissa through a dozen layers.
    np.testing.assert_allclose(out.latent, exact.latent, atol=0.05)
