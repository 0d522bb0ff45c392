"""The 3D VQGAN at any size the config asks for; its numbers are compared in tests/parity."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.vqgan3d import VQGAN3D


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(vqgan, variables, x, method="__call__"):
    return vqgan.apply(variables, x, method=method)


def test_uneven_downsampling_and_a_whole_pass_is_its_parts():
    vqgan = VQGAN3D(4, (2, 4, 4), 3, 16, num_groups=4, decoder_res_blocks=1)
    x = jax.random.uniform(jax.random.key(1), (1, 4, 8, 8, 1))
    variables = init_variables(vqgan, jax.random.key(0), x)
    latent = run(vqgan, variables, x, "encode")
    chex.assert_shape(latent, (1, 2, 2, 2, 3))
    codes, indices = run(vqgan, variables, latent, "quantize")
    volume = run(vqgan, variables, codes, "decode")
    chex.assert_equal_shape((volume, x))
    whole = run(vqgan, variables, x)
    np.testing.assert_array_equal(whole.indices, indices)
    np.testing.assert_allclose(whole.volume, volume, atol=1e-5 * float(jnp.abs(volume).max()))


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


def test_remat_wraps_every_residual_block_and_renames_no_parameter():
    x = jax.ShapeDtypeStruct((1, 8, 8, 8, 1), jnp.float32)
    found = []
    for remat in (False, True):
        vqgan = VQGAN3D(4, (4, 4, 4), 8, 16, num_groups=4, remat=remat)
        shapes = jax.eval_shape(vqgan.init, jax.random.key(0), x)
        found.append((shapes, str(jax.make_jaxpr(vqgan.apply)(shapes, x)).count("prevent_cse")))
    encoder, decoder = 2, 4
    assert found[0] == (found[1][0], 0)
    assert found[1][1] == encoder + decoder
