"""The 3D U-Net's types and refusals; its numbers and sizes are compared in tests/parity."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from dvg_jax.errors import UserError
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.unet3d import UNet3D


def tiny(**fields: Any) -> tuple[UNet3D, tuple[jax.Array, jax.Array]]:
    inputs = jax.random.normal(jax.random.key(0), (2, 4, 4, 4, 3)), jnp.array([3, 50])
    return UNet3D(8, (1,), out_dim=2, heads=2, head_dim=8, groups=4, **fields), inputs


def test_bfloat16_compute_stays_close() -> None:
    unet, inputs = tiny()
    variables = init_variables(unet, jax.random.key(1), *inputs)
    exact, rounded = (
        jax.jit(unet.clone(dtype=dtype).apply)(variables, *inputs) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.float32
    # bfloat16 keeps 8 bits: a rounding costs up to 2^-9, and some 30 layers add up; 0.014 is measured.
    error = jnp.sqrt(jnp.mean((rounded - exact) ** 2) / jnp.mean(exact**2))
    assert 0 < error < 0.03


def test_remat_wraps_every_block_and_renames_no_parameter() -> None:
    (kept, inputs), (again, _) = tiny(), tiny(remat=True)
    shapes = [jax.eval_shape(unet.init, jax.random.key(0), *inputs) for unet in (kept, again)]
    assert shapes[0] == shapes[1]
    traced = [str(jax.make_jaxpr(unet.apply)(shapes[0], *inputs)) for unet in (kept, again)]
    residual_blocks, attentions = 7, 7
    assert [text.count("prevent_cse") for text in traced] == [0, residual_blocks + attentions]


@pytest.mark.parametrize(
    ("fields", "shape", "named"),
    [
        ({}, (1, 4, 6, 8, 3), "6 x 8"),
        ({}, (4, 8, 8, 3), "(4, 8, 8, 3)"),
        ({"head_dim": 5}, (1, 4, 8, 8, 3), "head_dim is 5"),
        ({"groups": 3}, (1, 4, 8, 8, 3), "num_groups is 3"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_work_is_named(fields: dict, shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(UserError) as error:
        jax.eval_shape(UNet3D(8, (1, 1, 2), **fields).init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1, int))
    assert named in str(error.value)
    assert "allowed" in str(error.value)
