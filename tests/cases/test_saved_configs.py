"""A working folder's config is read whole or refused by one line, and binds no run before there is any work."""

import json
import re

import pytest

from dvg_jax.config import check, completed, default_config, read, save
from dvg_jax.errors import UserError
from dvg_jax.training import run
from dvg_jax.training.run import train
from dvg_jax.training.workdir import check_owner, load_config, load_stages
from tests.cases import toy


@pytest.mark.parametrize("text", ["[1, 2]", "5", "null", "", "{", '"config"', "[" * 100_000, "9" * 5000, "\xff"])
def test_a_file_that_holds_no_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.json is not a saved config"):
        read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.clear(), "config.stage is missing; allowed: a file that train.py has written"),
        (lambda c: c.pop("size"), "config.size is missing"),
        (lambda c: c["ct_vqgan"].clear(), "config.ct_vqgan.network is missing"),
        (lambda c: c["ct_vqgan"]["train"].pop("steps"), "config.ct_vqgan.train.steps is missing"),
        (lambda c: c.update(data=5), "config.data is 5; allowed: a section, source, train_count"),
        (lambda c: c.update(baselines=[]), "config.baselines is (); allowed: a section, cnn2d"),
        (lambda c: c.update(sise=32), "config has no field 'sise'; did you mean size?; allowed: stage, seed"),
        (lambda c: c["data"].update(x={}), "config.data has no field 'x'; allowed: source, train_count"),
        (lambda c: c.update(size={"edge": 32}), "config.size is {'edge': 32}; allowed: a whole number"),
        (lambda c: c.update(floor=float("nan")), "config.floor is nan; allowed: a number from 0 to less than 1"),
        (lambda c: c["ct_vqgan"]["train"].update(learning_rate=float("inf")), "learning_rate is inf; allowed"),
        (lambda c: c.update(angles=5), "config.angles is 5; allowed: a tuple"),
        (lambda c: c["log"].update(metrics_every=0), "config.log.metrics_every is 0; allowed: a whole number from 1"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_the_field(tmp_path, change, said):
    fields = default_config().to_dict()
    change(fields)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'config.json'}: ") + ".*" + re.escape(said)):
        load_config(tmp_path)


def test_a_saved_config_is_one_afterwards(tmp_path):
    config = default_config()
    save(config, tmp_path / "config.json")
    check(completed(read(tmp_path / "config.json")))
    assert load_config(tmp_path).to_dict() == config.to_dict()


def test_a_config_that_failed_before_its_first_checkpoint_may_be_corrected(tmp_path, monkeypatch):
    """It fails in the first step of a stage: no checkpoint of that stage is written."""
    moments = toy.toys(monkeypatch)

    def fail():
        raise UserError("the loss is not finite")

    for stage, before in (("ct_vqgan", ()), ("new_view", ("ct_vqgan", "view_vqgan", "new_view_vqgan"))):
        wrong, right = (toy.config(**{f"{stage}.train.learning_rate": rate}) for rate in (0.9, 0.001))
        moments.set(f"step of {stage}", 1, fail)
        with pytest.raises(UserError, match="not finite"):
            train(wrong, tmp_path / stage)
        moments.set("", 0, fail)
        assert load_config(tmp_path / stage)[stage].train.learning_rate == 0.9
        train(right, tmp_path / stage)
        assert load_config(tmp_path / stage)[stage].train.learning_rate == 0.001
        assert load_stages(right, tmp_path / stage, (*before, stage), wanted_by="a test")
        with pytest.raises(
            UserError, match=rf"config\.{stage}\.train\.learning_rate is 0\.9, and .* trained with 0\.001"
        ):
            train(wrong, tmp_path / stage)


def test_a_checkpoint_binds_a_folder(tmp_path, monkeypatch):
    config, other = toy.config(), toy.config(seed=1)
    save(config, tmp_path / "config.json")
    (tmp_path / "ct_vqgan" / "checkpoints").mkdir(parents=True)
    check_owner(other, tmp_path)
    (tmp_path / "ct_vqgan" / "checkpoints" / "100").mkdir()
    with pytest.raises(UserError, match=r"config\.seed is 1, and .* was trained with 0"):
        check_owner(other, tmp_path)
    monkeypatch.setattr(run, "build_stage", lambda *_: pytest.fail("begun"))
    with pytest.raises(UserError, match=r"config\.seed is 1"):
        train(other, tmp_path)
    assert load_config(tmp_path).seed == 0
