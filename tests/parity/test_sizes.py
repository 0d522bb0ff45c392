"""Parameter counts of the published networks, from shapes alone: what ``configs/paper.py`` builds is counted."""

import functools

import jax
import jax.numpy as jnp
import pytest

from configs import paper
from dvg_jax.config.build import build_dvg
from dvg_jax.stages.adversary import Adversary, Weights

KEY = jax.random.key(0)
VQGANS = ("ct_vqgan", "view_vqgan", "new_view_vqgan")


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def shapes(views):
    """The variables of every stage under the paper's config for these views, without their numbers."""
    dvg = build_dvg(paper.get_config(views))
    ct, times = floats(1, *dvg.geometry.volume_shape, 1), jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = {}
    for name in VQGANS:
        vqgan = getattr(dvg, name)
        per_channel = floats(vqgan.embedding_dim)
        variables[name] = jax.eval_shape(vqgan.init, KEY, ct)
        variables[name] |= {"statistics": {"mean": per_channel, "std": per_channel}}
    z0 = jax.eval_shape(dvg.ct_latent, variables, ct)
    variables["new_view"] = jax.eval_shape(dvg.generator.init, KEY, z0, times)
    films = floats(1, len(dvg.angles), *dvg.geometry.volume_shape[:2], 1)
    condition = jax.eval_shape(lambda *x: dvg.condition(*x, dvg.angles), variables, films)
    variables["diffusion"] = jax.eval_shape(dvg.denoiser.init, KEY, condition, z0, times)
    return variables


@pytest.mark.parametrize("name", VQGANS)
def test_vqgans(name):
    counts = {part: count(tree) for part, tree in shapes("biplanar")[name]["params"].items()}
    assert counts == {"encoder": 441_568, "pre_vq_conv": 520, "post_vq_conv": 576, "decoder": 948_417}
    assert shapes("biplanar")[name]["codebook"]["embeddings"].shape == (16384, 8)


@pytest.mark.parametrize(("name", "inputs", "expected"), [
    ("slices", floats(1, 128, 128, 1), 2_764_481),
    ("volume", floats(1, 128, 128, 128, 1), 11_049_665),
])  # fmt: skip
def test_critics(name, inputs, expected):
    weights = Weights(**paper.get_config().ct_vqgan.loss)
    critic = Adversary(weights).critics[name]
    assert count(jax.eval_shape(critic.init, KEY, inputs)["params"]) == expected


def test_generator():
    assert count(shapes("biplanar")["new_view"]) == 35_709_832


@pytest.mark.parametrize(
    ("views", "channels", "expected"),
    [("biplanar", 24, 134_508_040), ("views=3", 16, 134_498_824)],
)
def test_denoiser(views, channels, expected):
    variables = shapes(views)["diffusion"]
    assert variables["params"]["unet"]["init_conv"]["kernel"].shape[-2] == channels
    assert count(variables) == expected
