"""The attentions and positional parts against slow, literal forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.networks.attention import (
    LinearAttention,
    SpatialAttention,
    TemporalAttention,
    _all_heads_at_once,
    _head_by_head,
    attend_along_depth,
)
from dvg_jax.networks.positional import rotate, time_features

HEADS, E = 2, 4
SHAPE = (2, 5, 3, 4, 6)


def test_rotated_products_depend_on_distance_alone() -> None:
    q, k = jax.random.normal(jax.random.key(0), (2, 32))
    q, k = (rotate(jnp.broadcast_to(y, (1, 9, 32)))[0] for y in (q, k))
    products = q @ k.T
    np.testing.assert_allclose(products[1:, 1:], products[:-1, :-1], atol=1e-4)
    assert np.ptp(products[0]) > 0.1


def test_time_features_span_one_to_a_ten_thousandth() -> None:
    features = time_features(jnp.array([0, 7]), 8)
    np.testing.assert_allclose(features[0], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(features[1, [0, 3]], np.sin([7, 7e-4]), rtol=1e-5)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def _literal(kind: type, x: np.ndarray, params: dict, bias: np.ndarray) -> np.ndarray:
    """One sample, one sequence and one head at a time, in float64."""
    out = x.copy()
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * params["norm"]["gamma"]
    qkv = (normal @ params["to_qkv"]["kernel"]).reshape(*x.shape[:-1], 3, HEADS, E)
    rows, columns = SHAPE[2:4]
    if kind is TemporalAttention:
        sequences = [(b, slice(None), i, j) for b in range(2) for i in range(rows) for j in range(columns)]
    else:
        sequences = [(b, d, slice(None), slice(None)) for b in range(2) for d in range(SHAPE[1])]
    for where in sequences:
        tokens = qkv[where].reshape(-1, 3, HEADS, E)
        heads = []
        for h in range(HEADS):
            q, k, v = tokens[:, :, h].transpose(1, 0, 2)
            if kind is LinearAttention:
                heads.append(_softmax(q, 1) / np.sqrt(E) @ (_softmax(k, 0).T @ v))
                continue
            if kind is TemporalAttention:
                q, k = (np.asarray(rotate(jnp.asarray(y[None], jnp.float32)))[0] for y in (q, k))
            similarity = q @ k.T / np.sqrt(E) + (bias[h] if kind is TemporalAttention else 0)
            heads.append(_softmax(similarity, 1) @ v)
        answer = np.concatenate(heads, 1) @ params["to_out"]["kernel"] + params["to_out"].get("bias", 0)
        out[where] += answer.reshape(out[where].shape)
    return out


@pytest.mark.parametrize("kind", [TemporalAttention, SpatialAttention, LinearAttention])
def test_attention_equals_its_literal_form(kind: type) -> None:
    random = np.random.default_rng(0)
    x, bias = random.normal(size=SHAPE), random.normal(size=(HEADS, SHAPE[1], SHAPE[1]))
    arguments = (jnp.asarray(bias, jnp.float32),) if kind is TemporalAttention else ()
    module = kind(HEADS, E)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(SHAPE), *arguments)
    variables = jax.tree.map(lambda s: random.normal(size=s.shape), shapes)
    assert ("bias" in variables["params"]["to_out"]) == (kind is LinearAttention)
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    y = module.apply(single, jnp.asarray(x, jnp.float32), *arguments)
    expected = _literal(kind, x, variables["params"], bias)
    # Float32 against float64.
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("cases", [1, 2])
def test_the_gradient_of_attention_along_depth_is_that_of_its_formula(cases) -> None:
    """One case has a layout of its own on a GPU; both forms must be the same function."""
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v, given = (jax.random.normal(key, (cases, *SHAPE[1:4], HEADS, E)) for key in keys[:4])
    bias = jax.random.normal(keys[4], (HEADS, SHAPE[1], SHAPE[1]))

    def formula(q, k, v, bias):
        weight = jax.nn.softmax(jnp.einsum("bihwne,bjhwne->bhwnij", q, k) + bias, axis=-1)
        return jnp.einsum("bhwnij,bjhwne->bihwne", weight, v)

    y, pull = jax.vjp(attend_along_depth, q, k, v, bias)
    expected, pull_expected = jax.vjp(formula, q, k, v, bias)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(pull(given), pull_expected(given), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_context_of_all_heads_gives_what_those_of_each_head_give() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (*SHAPE[:4], HEADS, E)) for key in keys[:3])
    total = jax.random.uniform(keys[3], (*SHAPE[:2], HEADS, E), minval=1.0, maxval=2.0)
    arguments = (q, k, v, total)
    np.testing.assert_allclose(_all_heads_at_once(*arguments), _head_by_head(*arguments), atol=1e-5)
