"""The same training on one device and on four, with the state on each of them or split among them."""

import chex
import jax
import numpy as np
import pytest

from dvg_jax.config.build import build_dvg
from dvg_jax.stages import build_stage
from dvg_jax.training import sharding
from dvg_jax.training.checkpoint import Checkpoints
from dvg_jax.training.loop import StageRun
from tests.tiny import get_config

pytestmark = pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices; conftest makes fake ones on a CPU")
STEPS = 3


def stage_run(workdir, split=False):
    config = get_config()
    config.shard_parameters = split
    config.ct_vqgan.train.update({"steps": STEPS, "batch_size": 4, "cache": False, "ema_decay": 0.9})
    return StageRun(config, build_stage("ct_vqgan", config, build_dvg(config)), {}, workdir)


def trained(workdir, split=False):
    """Metrics of every step, and the state after the last."""
    run = stage_run(workdir, split)
    told, states = [], []
    original = run._step

    def step(*arguments):
        state, metrics = original(*arguments)
        told.append({name: float(value) for name, value in metrics.items()})
        states[:] = [state]
        return state, metrics

    run._step = step
    run.run()
    return told, states[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    with pytest.MonkeyPatch.context() as patch:
        found = {"four": trained(folder / "four")}
        devices = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: devices)
        found["one"] = trained(folder / "one")
    return folder, found


@pytest.fixture(scope="module")
def both(runs):
    """The same with a split state too."""
    folder, found = runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALLEST_SPLIT", 64)
        return folder, found | {"split": trained(folder / "split", split=True)}


@pytest.mark.parametrize(("made", "name"), [("runs", "four"), pytest.param("both", "split", marks=pytest.mark.slow)])
def test_four_devices_give_the_loss_of_one(request, made, name):
    _, found = request.getfixturevalue(made)
    for a, b in zip(found["one"][0], found[name][0], strict=True):
        # Sums over the batch are taken in another order; float32 keeps seven digits.
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        np.testing.assert_allclose(a["gradient_norm"], b["gradient_norm"], rtol=1e-4)
        np.testing.assert_allclose(a["perplexity"], b["perplexity"], rtol=1e-4)


def held(state):
    """Elements that the first device holds of parameters, moments and average."""
    leaves = jax.tree.leaves((state.params, state.opt_state, state.ema))
    return sum(leaf.addressable_shards[0].data.size for leaf in leaves)


@pytest.mark.slow
def test_a_split_state_takes_a_quarter_of_each_device(both, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST_SPLIT", 64)
    _, found = both
    whole, split = held(found["four"][1]), held(found["split"][1])
    # Biases and gains stay whole.
    assert 0.25 < split / whole < 0.26
    for leaf in jax.tree.leaves(found["split"][1].params):
        axis = sharding.split_axis(leaf.shape, 4)
        quarter = tuple(n // 4 if i == axis else n for i, n in enumerate(leaf.shape))
        chex.assert_shape(leaf.addressable_shards[0].data, quarter)


@pytest.mark.slow
@pytest.mark.parametrize(("written", "split"), [("four", True), ("split", False), ("split", True)])
def test_a_checkpoint_is_read_in_either_layout(both, monkeypatch, written, split):
    folder, found = both
    monkeypatch.setattr(sharding, "SMALLEST_SPLIT", 64)
    run = stage_run(folder / written, split)
    saved = Checkpoints(run.folder / "checkpoints", 1)
    examples = run.examples()
    state = run._start(run._program(examples)[0], examples, saved)
    assert held(state) == held(found["split" if split else "four"][1])
    chex.assert_trees_all_equal(state, found[written][1])


@pytest.mark.parametrize(
    ("shape", "devices", "axis"),
    [
        ((3, 3, 3, 64, 128), 4, 4),
        ((3, 3, 3, 128, 64), 4, 3),
        ((4, 4, 4, 130, 130), 4, 0),  # the longest does not divide
        ((16384, 8), 8, 0),
        ((16384, 8), 1, None),
        ((16384, 7), 3, None),  # none divides
        ((128,), 4, None),  # small
        ((), 4, None),
    ],
)
def test_what_is_split_where(shape, devices, axis):
    assert sharding.split_axis(shape, devices) == axis
