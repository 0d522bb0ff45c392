"""A config may name several sources; tests of their shares, of who is trained on, and of runs that go on."""

import json
from collections import Counter
from contextlib import closing

import jax
import numpy as np
import pytest

from dvg_jax.config.build import build_also, build_source
from dvg_jax.ct.nifti import save_nifti
from dvg_jax.data.manifest import Row, write_manifest
from dvg_jax.data.mixture import Mixture, Part
from dvg_jax.data.opening import PHANTOM, folders_of, named_sources, open_source, open_training
from dvg_jax.data.pipeline import FIRST, evaluation_batches, training_iterator
from dvg_jax.data.sources import ENDLESS, ArraySource, PhantomSource, PreparedSource
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import row_labels
from dvg_jax.methods.yardsticks import mean_volume
from tests.tiny import get_config

SIZE = 8


def folder(path, hu, split="train"):
    """Write a prepared scan for each value in HU, which tells them apart, with its patient's name and split."""
    path.mkdir(parents=True)
    rows = []
    for value in hu:
        save_nifti(path / f"{value}.nii.gz", np.full((SIZE,) * 3, float(value)), np.eye(4))
        rows.append(Row(f"p{value}", "", f"{value}.nii.gz", f"{value}", "", "", split, "", "ok", "", "", ""))
    return path, rows


@pytest.fixture
def scans(tmp_path):
    """Return a folder of six scans for training, two for test, one for neither."""
    path, rows = folder(tmp_path / "scans", range(0, 900, 100))
    splits = ["train"] * 6 + ["test"] * 2 + [""]
    rows = [row.__class__(**{**vars(row), "split": split}) for row, split in zip(rows, splits, strict=True)]
    write_manifest(path, rows)
    return path


def scan_of(example):
    """Return the number of the scan that an example shows; -1 for a phantom."""
    ct = example["ct"]
    return -1 if np.ptp(ct) else round((float(ct[0, 0, 0, 0]) * 2500 - 1024) / 100)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("phantom", {"phantom": 1}),
        ("phantom:5", {"phantom": 1}),
        ("a/b", {"a/b": 1}),
        ("phantom:0.7,a:0.3", {"phantom": 0.7, "a": 0.3}),
        ("phantom:3, a:1", {"phantom": 0.75, "a": 0.25}),
        ("phantom,a", {"phantom": 0.5, "a": 0.5}),
        ("c:d:2,e:2", {"c:d": 0.5, "e": 0.5}),
        ("c:d", {"c:d": 1}),
        ("phantom:1e1,./phantom:10", {"phantom": 0.5, "./phantom": 0.5}),
    ],
)
def test_sources_and_weights(text, found):
    assert dict(named_sources(text)) == pytest.approx(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("phantom,", "with a source without a name; allowed: phantom, or a folder"),
        (":0.5", "with a source without a name"),
        ("phantom:0", "with the weight 0; allowed: above 0, up to 1e+06"),
        ("phantom:-1,a:2", "with the weight -1; allowed"),
        ("phantom:nan", "with the weight nan; allowed"),
        ("a:inf,b:1", "with the weight inf; allowed"),
        ("phantom:0.7,a", "which weighs some of its sources; allowed: a weight for each, or for none"),
        ("a:1,phantom:1,./a:1", "which names a source twice; allowed: each once"),
        ("phantom,phantom", "which names a source twice"),
    ],
)
def test_bad_sources(text, said):
    with pytest.raises(UserError) as refused:
        named_sources(text, "config.evaluate.also")
    assert str(refused.value).startswith(f"config.evaluate.also is {text!r}, ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_lone_folder_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "a:5", "phantom:0.5,x:1"):
        (tmp_path / name).mkdir()
        assert folders_of(name) == [type(tmp_path)(name)]


@pytest.mark.parametrize(("other", "said"), [("nowhere", "which does not exist"), ("x.txt", "a file")])
def test_every_source_must_exist(tmp_path, monkeypatch, other, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(UserError, match=rf"^config.data.source names '{other}', {said}.*; allowed: phantom"):
        open_training(f"phantom:1,{other}:1", SIZE, 4, 0)


def test_sources_get_their_shares_and_scans_come_equally_often():
    made = [ArraySource({"ct": np.full((count, 2, 2, 2, 1), count, np.float32)}) for count in (3, 5, 7)]
    weights = (0.5, 0.2, 0.3)
    mixture = Mixture([Part(source, weight, None) for source, weight in zip(made, weights, strict=True)], 0, seed=1)
    for count in (1, 10, 137, 1000):
        drawn = Counter(mixture._place(index) for index in range(count))
        assert set(drawn.values()) == {1}
        for number, weight in enumerate(weights):
            turns = sorted(turn for which, turn in drawn if which == number)
            assert turns == list(range(len(turns)))
            assert abs(len(turns) - weight * count) < len(weights)
    late = 2**31 - 2  # the last example there is
    assert mixture._place(late)[1] == pytest.approx(weights[mixture._place(late)[0]] * late, abs=3)


def test_only_scans_of_the_training_split_are_drawn(scans):
    source = open_training(f"phantom:0.4,{scans}:0.6", SIZE, 0, seed=2)
    drawn = [scan_of(source[i]) for i in range(50)]
    assert Counter(drawn) == {-1: 20} | dict.fromkeys(range(6), 5)
    laps = [tuple(scan for scan in drawn if scan >= 0)[lap * 6 : lap * 6 + 6] for lap in range(5)]
    assert len(set(laps)) > 1


def test_examples_depend_on_seed_and_number_alone(scans):
    text = f"phantom:0.5,{scans}:0.5"
    one, again, other = (open_training(text, SIZE, 0, seed, augmented=True) for seed in (0, 0, 1))
    for index in (6, 5, 0, 1):
        np.testing.assert_array_equal(one[index]["ct"], again[index]["ct"])
        assert one[index]["index"] == index
    assert any(np.any(one[index]["ct"] != other[index]["ct"]) for index in (1, 3))
    finite = open_training(text, SIZE, 10, 0, augmented=True)
    assert len(finite) == 10
    for index in range(4):
        np.testing.assert_array_equal(finite[index]["ct"], one[index]["ct"])


def test_a_scan_is_varied_anew_each_time(scans):
    source = open_training(str(scans), SIZE, 12, 0, augmented=True)
    assert len(source) == 12
    means = {float(source[i]["ct"].mean()) for i in range(12)}
    assert len(means) == 12


def test_one_source_stays_as_it_is(scans):
    alone = open_training(str(scans), SIZE, 0, 0)
    assert isinstance(alone, PreparedSource)
    assert len(alone) == 6
    phantoms = open_training("phantom", SIZE, 3, 0)
    assert isinstance(phantoms, PhantomSource)
    assert phantoms.identity == PhantomSource(3, SIZE).identity


def test_phantoms_without_end_are_the_counted_ones_and_none_is_kept():
    endless, counted = PhantomSource(0, SIZE, seed=4), PhantomSource(3, SIZE, seed=4)
    assert len(endless) == ENDLESS
    np.testing.assert_array_equal(endless[2]["ct"], counted[2]["ct"])
    assert np.any(endless[ENDLESS - 1]["ct"] != endless[2]["ct"])
    assert endless._kept == []


def test_batches_without_end_come_in_order_and_go_on_where_they_stopped(scans):
    def batches(process=0, processes=1):
        source = open_training(f"phantom:0.5,{scans}:0.5", SIZE, 0, 0, augmented=True)
        return training_iterator(source, 4, 0, process, processes)

    with closing(batches()) as whole:
        first = [next(whole) for _ in range(2)]
        state = json.loads(json.dumps(whole.get_state()))
        later = [next(whole) for _ in range(2)]
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in first + later]), np.arange(16))
    with closing(batches()) as resumed:
        resumed.set_state(state)
        for batch in later:
            np.testing.assert_array_equal(next(resumed)["ct"], batch["ct"])
    with closing(batches(1, 2)) as second:
        np.testing.assert_array_equal(next(second)["ct"], first[0]["ct"][2:])


def test_an_ordered_pass_over_examples_without_end_ends(unchecked):
    class Numbers(ArraySource):
        def __len__(self):
            return ENDLESS

        def __getitem__(self, index):
            return {"ct": np.full((1, 1, 1, 1), index, np.float32), "index": np.int32(index)}

    source = Numbers({"ct": np.zeros((1, 1))})
    assert sum(int(batch["mask"].sum()) for batch in evaluation_batches(source, 100)) == FIRST
    mean = mean_volume(source, None).predict({}, np.zeros((1, 1, 1, 1, 1), np.float32), None)
    assert float(mean.ct[0, 0, 0, 0, 0]) == (FIRST - 1) / 2


def test_test_cases_follow_each_other_with_their_labels(scans):
    source = open_source(f"{scans}:0.1,phantom:0.9", "test", SIZE, count=2, seed=3)
    assert [scan_of(source[i]) for i in range(len(source))] == [6, 7, -1, -1]
    assert [int(source[i]["index"]) for i in range(4)] == [0, 1, 2, 3]
    np.testing.assert_array_equal(source[3]["ct"], PhantomSource(2, SIZE, 3, "test")[1]["ct"])
    labels = [row_labels(source, i, source[i]["ct"][..., 0])["patient"] for i in range(4)]
    assert labels == ["p600", "p700", "phantom 0", "phantom 1"]


def test_a_patient_in_two_splits_is_refused(scans, tmp_path):
    other, rows = folder(tmp_path / "other", [600, 900])
    write_manifest(other, rows)
    with pytest.raises(UserError, match=r"patient p600 is in split 'train', and in 'test' in .*; allowed: one split"):
        open_training(f"{scans}:1,{other}:1", SIZE, 0, 0)
    write_manifest(other, rows[1:])
    assert len(open_training(f"{scans}:1,{other}:1", SIZE, 0, 0)) == ENDLESS


def test_few_scans_of_all_folders_together_are_said(scans, tmp_path, capsys):
    few, rows = folder(tmp_path / "few", [900])
    write_manifest(few, rows)
    open_training(f"phantom:1,{few}:1", SIZE, 0, 0)
    assert f"warning: {few}: 1 scan in split 'train'" in capsys.readouterr().err
    open_training(f"{scans}:1,{few}:1", SIZE, 0, 0)
    assert not capsys.readouterr().err


def test_everything_that_decides_examples_is_in_the_identity(scans):
    def identity(weights="1:1", count=4, seed=0, augmented=False):
        a, b = weights.split(":")
        return open_training(f"phantom:{a},{scans}:{b}", SIZE, count, seed, augmented).identity

    kinds = [
        identity(),
        identity("1:2"),
        identity(count=5),
        identity(count=0),
        identity(seed=1),
        identity(augmented=True),
    ]
    assert len(set(kinds)) == len(kinds)
    assert identity() == identity("2:2")
    save_nifti(scans / "0.nii.gz", np.full((SIZE,) * 3, 5.0), np.eye(4))
    assert identity() != kinds[0]


def test_phantoms_alone_are_not_augmented():
    with pytest.raises(UserError, match=r"^config.data.augment is True with phantoms alone; allowed: False, or a fol"):
        open_training(PHANTOM, SIZE, 4, 0, augmented=True)


def test_the_config_opens_them(scans):
    config = get_config()
    config.size = SIZE
    config.data.update({"source": f"phantom:0.5,{scans}:0.5", "train_count": 10, "augment": True})
    assert (len(build_source(config, "train")), len(build_source(config, "test"))) == (10, 6)
    assert jax.tree.map(np.shape, build_source(config, "train")[3]) == {"ct": (SIZE, SIZE, SIZE, 1), "index": ()}


def test_a_second_test_set_has_as_many_phantoms_and_nobody_who_is_trained_on(scans, tmp_path):
    other, rows = folder(tmp_path / "other", [0, 900], "test")
    write_manifest(other, rows[1:])
    config = get_config()
    config.size = SIZE
    config.data.update({"source": f"phantom:0.5,{scans}:0.5", "test_count": 3})
    for also, count in (("phantom:5", 3), (str(other), 1), (str(scans), 2)):
        config.evaluate.also = also
        assert len(build_also(config)) == count
    config.evaluate.also = f"phantom,{other}"
    with pytest.raises(UserError, match=r"^config.evaluate.also is 'phantom,.*; allowed: phantom, or a folder"):
        build_also(config)
    write_manifest(other, rows)
    config.evaluate.also = str(other)
    with pytest.raises(UserError, match=r"^config.evaluate.also is .*, whose patient p0 is in split 'train' of "):
        build_also(config)
