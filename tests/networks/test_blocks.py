"""Both forms of every convolution are the same function, forward and backward."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.errors import UserError
from dvg_jax.networks.blocks import Conv, Conv2D, ConvTranspose, Dense, GroupNorm, instance_norm
from dvg_jax.networks.convolution import _pad_at_once, _pad_axes, convolve, max_pool, pad, upsample
from dvg_jax.networks.unet3d import Block

CASES = [
    ((3, 3, 3), (1, 1, 1), 2, 3),
    ((3, 3, 3), (1, 1, 1), 3, 2),
    ((5, 3, 1), (1, 1, 1), 4, 1),
    ((1, 3, 3), (1, 1, 1), 2, 2),
    ((4, 4, 4), (2, 2, 2), 2, 3),
    ((4, 4, 4), (1, 2, 2), 3, 2),
    ((1, 4, 4), (1, 2, 2), 2, 2),
    ((1, 1, 1), (1, 1, 1), 3, 2),
]


def assert_same(function, *arrays):
    """Values and gradients of the two forms."""

    @partial(jax.jit, static_argnums=0)
    def computed(form, upstream, *arrays):
        y, pull = jax.vjp(lambda *a: function(*a, form), *arrays)
        return y, pull(upstream)

    like = jax.eval_shape(lambda *a: function(*a, "native"), *arrays)
    upstream = jax.random.normal(jax.random.key(9), like.shape)
    (sliced, gradients), (native, expected) = (computed(form, upstream, *arrays) for form in ("sliced", "native"))
    np.testing.assert_allclose(sliced, native, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kernel", "strides", "inputs", "outputs"), CASES)
def test_convolution_forms_agree(kernel, strides, inputs, outputs):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 9, inputs))
    w = jax.random.normal(jax.random.key(1), (*kernel, inputs, outputs))
    padding = tuple((k // 2, k // 3) for k in kernel)
    assert_same(lambda x, w, form: convolve(x, w, strides, padding, form), x, w)


@pytest.mark.parametrize("kernel", [(4, 4, 4), (1, 4, 4)])
def test_a_transposed_convolution_by_phases_is_that_over_an_input_with_holes(kernel):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 7, 3))
    w = jax.random.normal(jax.random.key(1), (*kernel, 3, 2))

    def with_holes(x, w):
        dilation = [2 if k == 4 else 1 for k in kernel]
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        w = w[::-1, ::-1, ::-1]
        return jax.lax.conv_general_dilated(
            x, w, (1,) * 3, [(0, 0)] * 3, lhs_dilation=dilation, dimension_numbers=numbers
        )

    assert_same(lambda x, w, form: with_holes(x, w) if form == "native" else upsample(x, w, form), x, w)
    assert_same(lambda x, w, form: with_holes(x, w) if form == "native" else upsample(x, w, "native"), x, w)


@pytest.mark.parametrize("amounts", [((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 1), (0, 0))])
def test_edges_copied_at_once_are_those_copied_by_axis(amounts):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 2, 3))
    assert_same(lambda x, form: (_pad_at_once if form == "native" else _pad_axes)(x, amounts), x)


@pytest.mark.parametrize(("platform", "three_dimensional"), [("cpu", False), ("cuda", True)])
def test_the_form_is_that_of_the_platform_for_which_a_program_is_lowered(platform, three_dimensional):
    """No GPU is needed to lower a program for one, and the machine's own backend must not decide."""
    x, w = jnp.zeros((1, 6, 6, 6, 2)), jnp.zeros((3, 3, 3, 2, 2))
    lowered = jax.jit(lambda x, w: convolve(x, w)).trace(x, w).lower(lowering_platforms=(platform,))
    found = [line for line in lowered.as_text().splitlines() if "stablehlo.convolution" in line]
    assert len(found) == 1
    assert ("tensor<1x6x6x6x2xf32>" in found[0]) == three_dimensional


def test_a_kernel_without_depth_is_a_2d_convolution_on_a_gpu():
    """3D convolutions want channels first there: an array is turned before and after each."""
    x, w = jnp.zeros((2, 3, 6, 6, 2)), jnp.zeros((1, 3, 3, 2, 2))
    lowered = jax.jit(lambda x, w: convolve(x, w)).trace(x, w).lower(lowering_platforms=("cuda",))
    assert "[b, 0, 1, f]x[0, 1, i, o]" in lowered.as_text()


@pytest.mark.parametrize("side", [3, 4, 5])
def test_forms_agree_on_images_as_small_as_the_kernel(side):
    x = jax.random.normal(jax.random.key(0), (2, 3, side, side, 3))
    w = jax.random.normal(jax.random.key(1), (1, 3, 3, 3, 2))
    assert_same(lambda x, w, form: convolve(x, w, form=form), x, w)


@pytest.mark.parametrize("shape", [(2, 8, 9, 3), (2, 7, 8, 6, 2)])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_max_pool_and_its_gradient(shape, window, stride):
    x = jax.random.normal(jax.random.key(0), shape)
    size = (window,) * (x.ndim - 2), (stride,) * (x.ndim - 2)
    (ours, pull), (flax, pull_flax) = (
        jax.vjp(f, x) for f in (lambda x: max_pool(x, window, stride), lambda x: nn.max_pool(x, *size))
    )
    np.testing.assert_array_equal(ours, flax)
    upstream = jax.random.normal(jax.random.key(1), ours.shape)
    np.testing.assert_allclose(pull(upstream)[0], pull_flax(upstream)[0], rtol=1e-6)


def test_padding_modes():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2, 1)
    zeros, edges = (pad(x, ((1, 0), (0, 1), (0, 0)), mode) for mode in ("zeros", "replicate"))
    assert zeros.shape == edges.shape == (1, 3, 3, 2, 1)
    assert float(jnp.abs(zeros[:, 0]).sum()) == 0
    np.testing.assert_array_equal(edges[0, 0, :2], x[0, 0])


def test_an_unknown_padding_mode_is_refused(unchecked):
    with pytest.raises(UserError, match="padding mode is 'wrap'; allowed"):
        pad(jnp.zeros((1, 2, 2, 2, 1)), ((1, 1),) * 3, "wrap")


def test_transposed_convolution_refuses_other_kernels():
    with pytest.raises(UserError, match="allowed: 1 to 4"):
        ConvTranspose(2, (5, 4, 4)).init(jax.random.key(0), jnp.zeros((1, 2, 2, 2, 1)))


def test_compute_type_and_weights_type():
    conv = Conv(2, (3, 3, 3), padding=((1, 1),) * 3, dtype=jnp.bfloat16)
    variables = conv.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4, 1)))
    assert conv.apply(variables, jnp.zeros((1, 4, 4, 4, 1))).dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        (Conv(1, (1, 1, 1), dtype=jnp.bfloat16), ("params", "bias")),
        (Conv2D(1, (1, 1, 1), dtype=jnp.bfloat16), ("params", "bias")),
        (ConvTranspose(1, (2, 2, 2), dtype=jnp.bfloat16), ("params", "bias")),
        (Dense(1, dtype=jnp.bfloat16), ("params", "bias")),
        (Block(1, 1, dtype=jnp.bfloat16), (1,)),
    ],
    ids=["Conv", "Conv2D", "ConvTranspose", "Dense", "Block"],
)
def test_gradients_that_sum_over_voxels_do_so_in_float32(layer, where):
    """Added up in bfloat16, 32768 values near 0.5 come to 256: there a next one no longer changes the sum."""
    edge = 16 if isinstance(layer, ConvTranspose) else 32
    x = jnp.zeros((1, edge**2, edge, 1) if isinstance(layer, Conv2D) else (1, edge, edge, edge, 1))
    # Beside ``Block``'s features its time's scale and shift, whose gradient is asked for.
    more = ((jnp.zeros((1, 1, 1, 1, 1), jnp.bfloat16),) * 2,) if isinstance(layer, Block) else ()
    variables = layer.init(jax.random.key(0), x, *more)
    weights = jax.random.uniform(jax.random.key(1), (32**3,)).astype(jnp.bfloat16)

    def loss(variables, *more):
        return jnp.sum(layer.apply(variables, x, *more).astype(jnp.float32).ravel() * weights)

    found = jax.jit(jax.grad(loss, argnums=len(more)))(variables, *more)
    for part in where:
        found = found[part]
    # SiLU's slope at 0 is one half. bfloat16 keeps 8 bits of the result.
    exact = np.asarray(weights, np.float64).sum() * (0.5 if more else 1.0)
    np.testing.assert_allclose(np.asarray(found, np.float64).item(), exact, rtol=2**-8)


def test_a_norm_in_bfloat16_is_as_good_as_its_input():
    """Mean and variance come from one pass there; what that loses is below the input's own rounding."""
    x = (3 + jax.random.normal(jax.random.key(0), (2, 8, 8, 8, 4))).astype(jnp.bfloat16)
    norm = GroupNorm(2)
    y = norm.apply(norm.init(jax.random.key(1), x), x)
    groups = np.asarray(x, np.float64).reshape(2, 8, 8, 8, 2, 2)
    mean, variance = groups.mean((1, 2, 3, 5), keepdims=True), groups.var((1, 2, 3, 5), keepdims=True)
    exact = ((groups - mean) / np.sqrt(variance + norm.epsilon)).reshape(x.shape)
    np.testing.assert_allclose(y, exact, atol=1e-4)


def test_norm_of_features_whose_mean_is_large_beside_their_spread():
    x = 3 + 0.01 * jax.random.normal(jax.random.key(0), (1, 8, 8, 8, 2))
    norm = GroupNorm(1)
    y = norm.apply(norm.init(jax.random.key(1), x), x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + norm.epsilon)
    # A mean of 3 is known to 2e-7 in float32, 2e-5 of the spread; by E[x^2] - E[x]^2 the error is 5e-2.
    np.testing.assert_allclose(y, exact, atol=2e-4)


@pytest.mark.parametrize("form", ["sliced", "native"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_transposed_kernels_by_hand(kernel, form):
    """Every input voxel adds its scaled kernel at twice its place; PyTorch's padding cuts 1 off kernels 3 and 4."""
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 2, 2)).astype(np.float32)
    layer = ConvTranspose(3, (kernel,) * 3, form=form)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    weights, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    full = np.zeros((1, *(2 * n + 2 for n in x.shape[1:4]), 3))
    for at in np.ndindex(x.shape[1:4]):
        reach = tuple(slice(2 * i, 2 * i + kernel) for i in at)
        full[(0, *reach)] += np.einsum("c,ijkcf->ijkf", x[(0, *at)], weights)
    cut = tuple(slice(kernel > 2, (kernel > 2) + 2 * n) for n in x.shape[1:4])
    np.testing.assert_allclose(
        layer.apply(variables, jnp.asarray(x)), full[(slice(None), *cut)] + bias, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("form", ["sliced", "native"])
def test_2d_convolution_is_the_3d_one_of_depth_one(form):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 2))
    settings = {"strides": (1, 2, 2), "padding": ((0, 0), (1, 1), (2, 2)), "form": form}
    layer = Conv2D(3, (1, 3, 4), **settings)
    variables = layer.init(jax.random.key(1), x)
    assert variables["params"]["kernel"].shape == (3, 4, 2, 3)
    params = {**variables["params"], "kernel": variables["params"]["kernel"][None]}
    expected = Conv(3, (1, 3, 4), **settings).apply({"params": params}, x[:, None])[:, 0]
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_instance_norm_is_of_each_case_and_channel():
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (2, 4, 5, 3, 6))
    y = np.asarray(instance_norm(x))
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(1, 2, 3)), 1, rtol=1e-3)
    np.testing.assert_array_equal(instance_norm(x[:, :1, :1, :1]), x[:, :1, :1, :1])
    assert instance_norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
