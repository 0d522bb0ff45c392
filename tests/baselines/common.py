"""What every comparison method is held to."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dvg_jax.baselines import build_baseline
from dvg_jax.config import default_config, training
from dvg_jax.config.build import build_dvg
from dvg_jax.training.optim import Training
from dvg_jax.training.state import Fixed, Step, create, update

NEW_ANGLES = {1: (90.0,), 2: (45.0,)}
PAPER_SIZE = 128


def recipe_of(**fields):
    """Return the optimiser of a section ``train`` with these fields."""
    return Training(**training(steps=1, batch_size=1, learning_rate=1e-3, **fields)).recipe


def config_of(name, size, views=1, dtype="float32", **settings):
    """A config with ``views`` evenly spread over 0 to 90 degrees and other settings of ``baselines.<name>``."""
    config = default_config()
    config.size, config.geometry, config.dtype, config.timesteps = size, "covering", dtype, 10
    config.angles = tuple(90.0 * i / max(views - 1, 1) for i in range(views))
    config.new_angles = NEW_ANGLES.get(views, ())
    config.baselines[name].update(settings)
    return config


def build(name, size, views=1, **settings):
    """(method, pipeline it takes its X-rays from)."""
    config = config_of(name, size, views, **settings)
    dvg = build_dvg(config)
    return build_baseline(name, config, dvg), dvg


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def views_like(n, size):
    return jax.ShapeDtypeStruct((1, n, size, size, 1), jnp.float32)


def variables_like(network, *inputs):
    """Shapes of a network's variables; nothing is allocated."""
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def output_like(network, *inputs):
    """(parameter count, output shape), nothing allocated."""
    output, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), *inputs)
    return count(variables), output.shape


def chest(size):
    """A body, two lungs, a heart and a spine as ellipsoids, (1, size, size, size, 1); cheaper than a phantom."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    ct = np.full((size,) * 3, 0.01)
    for value, centre, radii in (
        (0.42, (0, 0, 0), (1.4, 0.6, 0.9)),
        (0.09, (0.1, 0.05, -0.45), (0.7, 0.4, 0.28)),
        (0.12, (0.0, 0.05, 0.45), (0.75, 0.4, 0.3)),
        (0.45, (-0.2, -0.15, 0.12), (0.35, 0.3, 0.28)),
        (0.75, (0, 0.45, 0), (1.4, 0.12, 0.12)),
    ):
        ct = np.where((((points - np.array(centre)) / np.array(radii)) ** 2).sum(axis=-1) < 1, value, ct)
    return jnp.asarray(ct[None, ..., None], jnp.float32)


class Trial:
    """A method trained on one pair."""

    def __init__(self, name, size, views=1, rate=2e-3, ct=None, recipe=None, **settings):
        self.baseline, self.dvg = build(name, size, views, **settings)
        self.ct, self.rate = chest(size) if ct is None else ct, rate
        self.example = self.baseline.prepare({}, self.ct, jax.random.key(0))
        self._program = Step(self.baseline.task, recipe or recipe_of())
        self._fixed = Fixed({}, {}, jax.random.key(1))
        self.start = create(self._program, jax.random.key(0), self.example)
        lowered = update.lower(self._program, self.start, self._fixed, self.example, jnp.float32(0))
        self._update = lowered.compile()

    def step(self, state, share=1.0):
        """One step from a copy of ``state``, at a share of the rate; (state, metrics)."""
        rate = jnp.float32(self.rate * share)
        return self._update(jax.tree.map(jnp.copy, state), self._fixed, self.example, rate)

    def train(self, steps, metric="loss"):
        """(state, a metric at every step); the rate falls to 0 over the second half, as X2CT's does."""
        state, values = self.start, []
        for i in range(steps):
            state, metrics = self.step(state, min(1.0, 2 - 2 * i / steps))
            values.append(metrics[metric])
        return state, np.array([float(value) for value in values])

    def predict(self, state, key=0):
        exported = {self.baseline.name: {"params": state.model, **state.model_state}}
        views = self.dvg.render(self.ct, self.dvg.angles)
        return np.asarray(self.baseline.predict(exported, views, jax.random.key(key)))

    def assert_deterministic(self):
        """Equal keys give equal numbers, in the first weights, in a step and in what is predicted."""
        again = create(self._program, jax.random.key(0), self.example)
        other = create(self._program, jax.random.key(1), self.example)
        (a, _), (b, _) = self.step(self.start), self.step(again)
        chex.assert_trees_all_equal(a.params, b.params)
        chex.assert_trees_all_equal(a.model_state, b.model_state)
        np.testing.assert_array_equal(self.predict(a), self.predict(b))
        kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(other.params) if leaf.ndim > 1]
        assert not any(
            np.array_equal(x, y) for x, y in zip(kernels, jax.tree.leaves(kernels_of(self.start.params)), strict=True)
        )


def kernels_of(params):
    return [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]


def assert_finite_and_deterministic_in_bfloat16(name, size, views=1, **settings):
    """Loss terms are finite, and the same for equal keys, where networks compute in bfloat16; weights are float32."""
    baseline, _ = build(name, size, views, dtype="bfloat16", **settings)
    example = baseline.prepare({}, chest(size), jax.random.key(0))
    loss = jax.jit(baseline.task.loss)
    starts = [baseline.task.init(jax.random.key(0), example) for _ in range(2)]
    assert {leaf.dtype for leaf in jax.tree.leaves(starts[0][0])} == {jnp.dtype("float32")}
    found = [loss(*start, {}, example, jax.random.key(1), jnp.int32(0)) for start in starts]
    chex.assert_trees_all_equal(*found)
    chex.assert_tree_all_finite(found[0])


def bright_voxel(size, at):
    """A CT that is 0 but for one voxel."""
    return jnp.zeros((1, size, size, size, 1)).at[(0, *at, 0)].set(1.0)


def assert_lines_cross(lift, dvg, at):
    """``lift`` (views -> one volume a view) puts the images of one bright voxel on lines that cross at the voxel.

    Within 2 voxels: lifts without geometry take rays as parallel.
    """
    ct = bright_voxel(dvg.geometry.volume_shape[0], at)
    frontal, lateral = lift(dvg.render(ct, (0.0, 90.0)))
    both = np.asarray(frontal * lateral)[0, ..., 0]
    found = np.unravel_index(both.argmax(), both.shape)
    assert both.max() > 0
    assert np.abs(np.subtract(found, at)).max() <= 2, (found, at)
