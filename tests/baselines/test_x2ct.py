"""X2CT-CNN and X2CT-GAN: layers, learning, losses, axes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.baselines.axes import replicate, to_view, to_volume
from dvg_jax.baselines.x2ct import GANTask, GANWeights, Generator, projection_distance
from dvg_jax.errors import UserError
from dvg_jax.networks.discriminator import PatchDiscriminator
from tests.baselines import common

TINY = {"width": 1 / 16, "layers": (1, 1, 1, 1, 1), "dropout": 0.0}
BIPLANAR = (0.0, 90.0)
PUBLISHED = common.recipe_of(beta1=0.5, beta2=0.99)
"""The published moments: Adam's usual ones drive the last ReLU to 0 everywhere within a few steps, for good."""

ERROR = {"x2ct_cnn": "loss", "x2ct_gan": "reconstruction"}


@pytest.mark.parametrize(("angles", "expected"), [((0.0,), 29_384_481), (BIPLANAR, 61_740_467)])
def test_generator_at_paper_scale(angles, expected):
    views = common.views_like(len(angles), common.PAPER_SIZE)
    assert common.output_like(Generator(angles), views) == (expected, (1, 128, 128, 128, 1))


@pytest.mark.parametrize(("inputs", "expected"), [(2, 11_051_073), (3, 11_055_169)])
def test_critic_at_paper_scale(inputs, expected):
    critic = PatchDiscriminator(3, norm="instance")
    shown = jax.ShapeDtypeStruct((1, 128, 128, 128, inputs), jnp.float32)
    variables = common.variables_like(critic, shown)
    assert common.count(variables) == expected
    assert jax.eval_shape(critic.apply, variables, shown)[0].shape == (1, 19, 19, 19, 1)


@pytest.mark.parametrize("angles", [(0.0,), BIPLANAR])
def test_output_of_small_ones(angles):
    network = Generator(angles, width=0.25, layers=TINY["layers"])
    assert common.output_like(network, common.views_like(len(angles), 32))[1] == (1, 32, 32, 32, 1)


@pytest.fixture(scope="module")
def trial():
    return common.Trial("x2ct_gan", 32, rate=5e-4, recipe=PUBLISHED, **TINY)


@pytest.mark.slow
def test_deterministic(trial):
    trial.assert_deterministic()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "views"), [("x2ct_cnn", 1), ("x2ct_gan", 2)])
def test_overfits_one_pair(name, views):
    trial = common.Trial(name, 32, views, rate=5e-4, recipe=PUBLISHED, **TINY)
    _, errors = trial.train(300, ERROR[name])
    assert errors[-1] < errors[0] / 20


class Guess(nn.Module):
    """The least that a generator can be."""

    angles: tuple[float, ...] = (0.0,)

    @nn.compact
    def __call__(self, views, train=False):
        return replicate(views[:, 0], 0.0) * self.param("scale", nn.initializers.ones, (1,))


def test_critic_and_generator_are_taught_apart(unchecked):
    """Distances leave the critic alone; of the rest, each learns from its own part."""
    critic = PatchDiscriminator(3, 2, layers=1, norm="instance")
    example = {"x": jax.random.uniform(jax.random.key(0), (1, 1, 8, 8, 1)), "y": common.chest(8)}
    task = GANTask(Guess(), critic, GANWeights())
    params, _ = task.init(jax.random.key(1), example)

    def gradients(**weights):
        task = GANTask(Guess(), critic, GANWeights(**weights))
        loss = lambda p: task.loss(p, {}, {}, example, jax.random.key(0), 0)[0]  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    distances = gradients(adversarial=0.0, reconstruction=1.0, projection=1.0)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(distances["critic"]))
    assert np.any(distances["model"]["scale"])

    def judged(params, ct):
        return critic.apply({"params": params}, jnp.concatenate([ct, replicate(example["x"][:, 0], 0.0)], axis=-1))[0]

    def of_critic(p):
        fake = replicate(example["x"][:, 0], 0.0)
        return jnp.mean((judged(p, example["y"]) - 1) ** 2) + jnp.mean(judged(p, fake) ** 2)

    def of_generator(p):
        return jnp.mean((judged(params["critic"], Guess().apply({"params": p}, example["x"])) - 1) ** 2)

    both = gradients(adversarial=1.0, reconstruction=0.0, projection=0.0)
    for name, alone in (("critic", of_critic), ("model", of_generator)):
        expected = jax.jit(jax.grad(alone))(params[name])
        for a, b in zip(jax.tree.leaves(both[name]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_finite_and_deterministic_in_bfloat16():
    common.assert_finite_and_deterministic_in_bfloat16("x2ct_gan", 32, **TINY)


def test_projection_distance_by_hand():
    a, b = np.zeros((1, 2, 2, 2, 1)), np.zeros((1, 2, 2, 2, 1))
    a[0, 0, 0, 0, 0] = -4.0
    b[0, 1, 1, 1, 0] = 4.0
    # Each map has four pixels; two of them differ by 4 / 2.
    assert float(projection_distance(a, b)) == pytest.approx(1.0)
    assert float(projection_distance(a, -a)) == 0


@pytest.mark.parametrize("at", [(20, 10, 24), (9, 22, 12)])
def test_views_repeated_along_their_rays_cross_at_the_voxel(at):
    _, dvg = common.build("x2ct_gan", 32, views=2)
    common.assert_lines_cross(lambda v: [replicate(v[:, i], a) for i, a in enumerate(BIPLANAR)], dvg, at)


@pytest.mark.parametrize("angle", BIPLANAR)
def test_turning_to_the_view_and_back(angle):
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(to_volume(to_view(x, angle), angle), x)
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(to_view(replicate(image, angle), angle)[:, 3], image)


@pytest.mark.parametrize("name", ["x2ct_cnn", "x2ct_gan"])
def test_bad_sizes_and_views_are_refused(name):
    with pytest.raises(UserError, match="multiples of 32"):
        common.build(name, 48)
    with pytest.raises(UserError, match="angles"):
        common.build(name, 32, views=3)
