"""Samples and cases split over four devices are those of one."""

import jax
import numpy as np
import pytest

from dvg_jax import load_reconstructor
from dvg_jax.dvg import DVG
from dvg_jax.evaluate.run import evaluate
from dvg_jax.reconstruct.reconstructor import sample_keys
from tests.tiny import get_config

pytestmark = pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices; conftest makes fake ones on a CPU")


@pytest.fixture
def made(monkeypatch):
    """Return the CTs of every call of ``DVG.estimates``, as they lie on the devices."""
    found, original = [], DVG.estimates

    def estimates(*arguments):
        result = original(*arguments)
        found.append(result.ct)
        return result

    monkeypatch.setattr(DVG, "estimates", estimates)
    return found


def one_device(monkeypatch):
    devices = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)


def test_samples_are_split_over_the_devices(trained, monkeypatch, made):
    reconstructor = load_reconstructor(trained)
    films = np.random.default_rng(0).random((2, *reconstructor.dvg.geometry.detector_shape), np.float32)
    arguments = films, reconstructor.dvg.angles, sample_keys(0, 4)
    four = reconstructor.samples(*arguments, steps=2)
    one_device(monkeypatch)
    one = reconstructor.samples(*arguments, steps=2)
    split, whole = made
    assert [shard.data.shape[0] for shard in split.addressable_shards] == [1] * 4
    assert len({shard.device for shard in split.addressable_shards}) == 4
    assert [shard.data.shape[0] for shard in whole.addressable_shards] == [4]
    np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5)


def test_cases_of_an_evaluation_are_split_over_the_devices(trained, monkeypatch, made, tmp_path):
    config = get_config()
    config.evaluate.update({"batch_size": 4, "cases": 4, "pictures": 0})
    for name in ("four", "one"):
        (tmp_path / name).mkdir()
        for stage in trained.iterdir():
            (tmp_path / name / stage.name).symlink_to(stage)
    tables = [evaluate(config, tmp_path / "four", show_progress=False)]
    one_device(monkeypatch)
    tables.append(evaluate(config, tmp_path / "one", show_progress=False))
    split, whole = made
    assert [shard.data.shape[0] for shard in split.addressable_shards] == [1] * 4
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)
    assert tables[0] == tables[1]
