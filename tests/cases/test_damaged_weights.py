"""Weights that are damaged, not finite or of another network are refused by name, and never used."""

import json
import random
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dvg_jax.data.sources import ArraySource
from dvg_jax.errors import UserError
from dvg_jax.files import sealed
from dvg_jax.fingerprint import fingerprint, of_variables
from dvg_jax.finite import not_finite
from dvg_jax.training import loop
from dvg_jax.training.checkpoint import Checkpoints, load_facts, load_model, save_model
from dvg_jax.training.run import train
from dvg_jax.training.sanity import check_rate, say_collapse, say_constant
from dvg_jax.training.sharding import data_mesh, rows_split
from dvg_jax.training.workdir import load_stages
from tests.cases import toy

FLIPS = 100
NOT_FINITE = "has values that are not finite in params/l1/kernel; allowed: numbers"
FACTS = {"stage": "s", "steps": 3, "config": {"name": "a", "rate": 0.5}}


def variables():
    random = np.random.default_rng(0)
    layers = {f"l{i}": {"kernel": random.standard_normal((3, 3, 8)), "bias": np.zeros(8)} for i in range(3)}
    return jax.tree.map(np.float32, {"params": layers, "statistics": {"mean": np.ones(4)}})


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "s" / "model", variables(), FACTS)
    return tmp_path / "s" / "model"


def rewritten(folder, tree, facts):
    """Write a model as earlier versions did: without digests, and whatever it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        items = {"variables": ocp.args.StandardSave(tree), "facts": ocp.args.JsonSave(facts)}
        checkpointer.save(folder, args=ocp.args.Composite(**items))


def flips(folder):
    """Flip a bit of some file of the folder, and undo it, again and again: as many in small files as in large ones."""
    chosen = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = [path.stat().st_size for path in files]
    for i in range(FLIPS):
        path = chosen.choice(files) if i % 2 else chosen.choices(files, sizes)[0]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        yield path
        path.write_bytes(whole)


def refusal(read, *given):
    with pytest.raises(UserError) as refused:
        read(*given)
    assert "\n" not in str(refused.value)
    assert "; allowed: " in str(refused.value)
    return str(refused.value)


def test_no_flipped_bit_of_a_model_is_used(model, capfd):
    for path in flips(model):
        told = refusal(load_model, model)
        assert told.startswith(f"{model} is damaged: ")
        assert path.name in told or path.name == sealed.NAME
    assert capfd.readouterr().err == ""
    assert load_model(model)[1] == FACTS


@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
def test_no_file_of_a_model_may_be_gone_or_cut(model, damage):
    for path in [path for path in model.rglob("*") if path.is_file() and path.stat().st_size]:
        whole = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
        assert str(model) in refusal(load_model, model)
        path.write_bytes(whole)
    assert load_facts(model) == FACTS


def test_facts_are_read_only_if_they_are_whole(model):
    path = model / "facts" / "metadata"
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 9'))
    assert "facts/metadata changed" in refusal(load_facts, model)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tree: tree["params"]["l1"]["kernel"].__setitem__(0, 7), "params/l1/kernel"),
        (lambda tree: tree["params"].pop("l2"), "params/l2/bias, params/l2/kernel"),
        (lambda tree: tree.update(more=np.ones(1, np.float32)), "more"),
        (lambda tree: tree["statistics"].update(mean=np.ones((2, 2), np.float32)), "statistics/mean"),
        (lambda tree: tree["statistics"].update(mean=np.ones(4, np.float64)), "statistics/mean"),
    ],
)
def test_variables_that_changed_are_named(model, change, named):
    """Files that fit their digests do not help where the facts tell of other variables."""
    stored = json.loads((model / "facts" / "metadata").read_text())
    tree = variables()
    change(tree)
    rewritten(model, tree, stored)
    sealed.seal(model)
    assert refusal(load_model, model) == f"{model} is damaged: {named} changed; allowed: as it was written"


def test_digests_tell_type_shape_and_place_apart():
    one = np.arange(4, dtype=np.float32)
    others = [one.reshape(2, 2), one.view(np.int32), one.astype(ml_dtypes.bfloat16), one[:0], one + 1, np.float32(0)]
    digests = [of_variables({"a": array})["a"] for array in (one, *others)]
    assert len(set(digests)) == len(digests)
    assert of_variables({"a": {"b": jnp.asarray(one)}}) == {"a/b": digests[0]}
    assert of_variables({}) == {}


def test_models_of_earlier_versions_are_used(tmp_path, capsys):
    folder = tmp_path / "s" / "model"
    rewritten(folder, variables(), FACTS)
    assert load_model(folder)[1] == FACTS
    assert (
        capsys.readouterr().err == f"warning: {folder} is not checked: written by an earlier version, without digests\n"
    )
    facts = FACTS | {"fingerprint": fingerprint({"s": variables()})}
    rewritten(folder, variables(), facts)
    assert load_model(folder)[1] == facts
    assert capsys.readouterr().err == ""
    rewritten(folder, jax.tree.map(lambda x: x + 1, variables()), facts)
    assert "its fingerprint changed" in refusal(load_model, folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_neither_read_nor_written(model, value):
    bad = variables()
    bad["params"]["l1"]["kernel"][2, 1, 7] = value
    told = refusal(save_model, model, bad, FACTS)
    assert told == f"what {model} is to hold {NOT_FINITE}"
    assert load_model(model)[1] == FACTS
    rewritten(model, bad, FACTS)
    assert refusal(load_model, model) == f"{model} {NOT_FINITE}"


def test_finite_numbers_are_told_on_devices_and_on_the_host():
    good = {"a": np.ones(2, np.float32), "n": np.ones(1, np.int32), "half": np.ones(2, ml_dtypes.bfloat16)}
    assert not_finite(good) == not_finite(jax.tree.map(jnp.asarray, good)) == []
    good["half"][1] = np.nan
    assert not_finite(good) == not_finite(jax.tree.map(jnp.asarray, good)) == ["half"]
    split = rows_split(data_mesh(4, "a field"))
    rows = np.arange(8, dtype=np.float32)
    assert not_finite(jax.device_put({"a": rows, "b": np.where(rows == 6, np.inf, rows)}, split)) == ["b"]


def test_a_network_of_another_width_is_named(tmp_path):
    config = toy.config()
    facts = {"stage": "ct_vqgan", "steps": 4, "config": json.loads(config.to_json())}
    save_model(tmp_path / "ct_vqgan" / "model", variables(), facts)
    load_stages(config, tmp_path, ("ct_vqgan",), wanted_by="a test")
    config.ct_vqgan.network.n_hiddens = 8
    told = refusal(load_stages, config, tmp_path, ("ct_vqgan",), "a test")
    assert f"config.ct_vqgan.network.n_hiddens is 8, and {tmp_path / 'ct_vqgan'} was trained with 4" in told


def test_a_damaged_checkpoint_is_named_and_an_older_one_is_not_taken(tmp_path):
    saved, like = Checkpoints(tmp_path, 2), {"w": jnp.zeros(6)}
    for step in (1, 2, 3):
        saved.save(step, {"w": jnp.full(6, float(step))}, {"place": step})
    saved.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    for _ in flips(tmp_path / "3"):
        told = refusal(saved.restore, 3, like)
        assert told.startswith(f"{tmp_path / '3'} is damaged: ")
        assert told.endswith("or remove it to go on from step 2")
    state, data = saved.restore(3, like)
    np.testing.assert_array_equal(state["w"], 3)
    assert data == {"place": 3}
    shutil.rmtree(tmp_path / "3")
    (tmp_path / "2" / "data" / "metadata").unlink()
    assert "or remove it to begin anew" in refusal(saved.restore, saved.latest(), like)


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_no_checkpoint_holds_a_nan(tmp_path, monkeypatch, part):
    """The loss at a checkpoint is that of the parameters before the update, and says nothing about those after it."""
    toy.toys(monkeypatch)
    step = loop.StageRun._step

    def broken(self, program, fixed, state, rows):
        state, metrics = step(self, program, fixed, state, rows)
        if int(state.step) == 4:
            bad = jax.tree.map(lambda x: x * jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else x, state)
            state = state.replace(**{part: getattr(bad, part)})
        return state, metrics

    config = toy.config(stage="ct_vqgan", **{"log.checkpoint_every": 2})
    with monkeypatch.context() as patch:
        patch.setattr(loop.StageRun, "_step", broken)
        told = refusal_of_training(config, tmp_path)
    assert f"ct_vqgan: not finite at step 4: {part}/" in told
    assert "the last good checkpoint is of step 2" in told
    assert [path.name for path in (tmp_path / "ct_vqgan" / "checkpoints").iterdir()] == ["2"]
    train(config, tmp_path)
    assert load_facts(tmp_path / "ct_vqgan" / "model")["steps"] == 4


def refusal_of_training(config, workdir):
    with pytest.raises(UserError) as refused:
        train(config, workdir)
    return str(refused.value)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    toy.toys(monkeypatch)
    step = loop.StageRun._step

    def broken(self, *given):
        state, metrics = step(self, *given)
        return state, metrics | {"gradient_norm": jnp.inf}

    monkeypatch.setattr(loop.StageRun, "_step", broken)
    told = refusal_of_training(toy.config(stage="ct_vqgan"), tmp_path)
    assert told == "ct_vqgan: gradient_norm is inf at step 1; the last good checkpoint is of step 0"


def test_a_rate_that_is_not_finite_is_refused(monkeypatch):
    training = loop.Training(**toy.config().ct_vqgan.train)
    check_rate(training.rate(), training, "config.ct_vqgan.train")
    with pytest.raises(UserError, match=r"config\.a\.train: the learning rate is nan at step 3; allowed: finite"):
        check_rate(lambda step: jnp.where(step > 2, jnp.nan, 1e-3), training, "config.a.train")


def test_training_on_air_is_said(capsys):
    cts = np.random.default_rng(0).random((6, 4, 4, 4, 1)).astype(np.float32)
    say_constant(ArraySource({"ct": cts}), "data/a")
    assert capsys.readouterr().err == ""
    say_constant(ArraySource({"ct": 0 * cts}), "data/a")
    assert "warning: 4 of 4 CTs looked at in config.data.source data/a have the value 0" in capsys.readouterr().err


def test_a_codebook_of_one_code_is_said(capsys):
    say_collapse("ct_vqgan", {"loss": jnp.ones(()), "perplexity": jnp.asarray(1.9)})
    assert capsys.readouterr().err == ""
    say_collapse("ct_vqgan", {"perplexity": jnp.asarray(1.0)})
    assert "warning: ct_vqgan: one code of its codebook is used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"kernel": np.zeros((2, 3), np.float32)}, 'Could not find parameter named "bias"'),
        ({"kernel": np.zeros((2, 4), np.float32), "bias": np.zeros(3, np.float32)}, r"shape \(2, 3\)"),
    ],
)
def test_variables_of_another_network_are_one_line(fails, weights, told):
    """They are as they were written, so no digest tells; the network does."""
    assert re.search(told, fails(lambda argv: nn.Dense(3).apply({"params": weights}, jnp.ones((1, 2)))))
