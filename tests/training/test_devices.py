"""The same training on one device and on four."""

import jax
import numpy as np
import pytest

from dvg_jax.build import build_dvg
from dvg_jax.stages import build_stage
from dvg_jax.training.loop import StageRun
from tests.tiny import get_config


def losses(monkeypatch, workdir, count):
    devices = jax.devices()[:count]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    config = get_config()
    config.ct_vqgan.train.update({"steps": 3, "batch_size": 4, "cache": False})
    run = StageRun(config, build_stage("ct_vqgan", config, build_dvg(config)), {}, workdir)
    told = []
    original = run._step

    def step(state, batch):
        state, metrics = original(state, batch)
        told.append({name: float(value) for name, value in metrics.items()})
        return state, metrics

    monkeypatch.setattr(run, "_step", step)
    run.run()
    return told


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices; conftest makes fake ones on a CPU")
def test_four_devices_give_the_loss_of_one(monkeypatch, tmp_path):
    one = losses(monkeypatch, tmp_path / "one", 1)
    four = losses(monkeypatch, tmp_path / "four", 4)
    for a, b in zip(one, four, strict=True):
        # Sums over the batch are taken in another order; float32 keeps seven digits.
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        np.testing.assert_allclose(a["perplexity"], b["perplexity"], rtol=1e-4)
