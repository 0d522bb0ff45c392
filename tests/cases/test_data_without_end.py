"""A run on varied scans without end stops, goes on, and gives the same bits as one that did not stop."""

import signal

import chex
import numpy as np
import pytest

from dvg_jax.config.build import build_source
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.errors import UserError
from dvg_jax.training import loop
from dvg_jax.training.checkpoint import load_model
from dvg_jax.training.run import train
from tests.cases import toy


@pytest.fixture
def moments(monkeypatch):
    moments = toy.toys(monkeypatch)
    monkeypatch.setattr(loop, "build_source", build_source)
    monkeypatch.setattr(loop, "EXPORT_CASES", 4)
    return moments


@pytest.fixture
def config(tmp_path):
    """Return a config of examples without end from two scans."""
    rows = []
    for n in range(3):
        save_nifti(tmp_path / f"{n}.nii.gz", np.random.default_rng(n).uniform(-1000, 400, (16,) * 3), np.eye(4))
        rows.append(Row(f"p{n}", "", f"{n}.nii.gz", "", "", "", "train" if n else "test", "", "ok", "", "", ""))
    write_manifest(tmp_path, rows)
    data = {"source": str(tmp_path), "train_count": 0, "augment": True}
    return toy.config(stage="ct_vqgan", **{f"data.{name}": value for name, value in data.items()})


def test_a_run_that_was_stopped_gives_the_same_bits(tmp_path, moments, config):
    train(config, tmp_path / "whole")
    moments.set("step of ct_vqgan", 3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(config, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "ct_vqgan" / "model").exists()
    moments.set("", 0, None)
    train(config, tmp_path / "stopped")
    assert moments.passed.count("step of ct_vqgan") < toy.STEPS
    (one, facts), (other, expected) = (
        load_model(tmp_path / run / "ct_vqgan" / "model") for run in ("stopped", "whole")
    )
    chex.assert_trees_all_equal(one, other)
    assert facts == expected


def test_examples_without_end_are_not_kept(tmp_path, moments, config):
    config.ct_vqgan.train.cache = True
    with pytest.raises(
        UserError, match=r"^config.ct_vqgan.train.cache is True with data.train_count 0; allowed: False"
    ):
        train(config, tmp_path / "run")
    config.stage, config.ct_vqgan.train.cache = "all", False
    with pytest.raises(UserError, match=r"^config.view_vqgan.train.cache is True with data.train_count 0"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.stage, config.ct_vqgan.train.cache = "ct_vqgan", True
    config.data.train_count = 4
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / "ct_vqgan" / "model").exists()
