"""Patients are in one set only, whatever the lists say, and what was changed is told."""

import pytest

from dvg_jax.data.manifest import SPLITS, Row
from dvg_jax.data.scans.splits import SplitRule, assign_splits, check_lists, patient_in, read_lists, split_patients
from dvg_jax.data.sources import PhantomSource
from dvg_jax.errors import UserError

MANY = {f"p{n}" for n in range(400)}


def _lidc(number):
    return f"lidc-idri-{number:04d}"


def test_chance_does_not_move_patients_when_others_come_or_val_is_asked_for():
    first, _ = split_patients(MANY, SplitRule(0.1, seed=3))
    more, _ = split_patients(MANY | {"new1", "new2"}, SplitRule(0.1, seed=3))
    assert all(more[p] == first[p] for p in MANY)
    with_val, changes = split_patients(MANY, SplitRule(0.1, 0.2, seed=3))
    assert changes == []
    assert {p for p in MANY if with_val[p] == "test"} == {p for p in MANY if first[p] == "test"}
    shares = [sum(name == split for name in with_val.values()) / 400 for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.06)
    other, _ = split_patients(MANY, SplitRule(0.1, seed=4))
    assert other != first


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_set_that_is_asked_for_is_empty_where_patients_suffice(count):
    for seed in range(20):
        split, _ = split_patients({f"p{n}" for n in range(count)}, SplitRule(0.01, 0.01, seed))
        found = set(split.values())
        assert found == {1: {"train"}, 2: {"train", "test"}}.get(count, {"train", "test", "val"})


def test_the_published_kind_of_lists_becomes_disjoint_and_says_how():
    train = ("LIDC-IDRI-0001.20000101.3000566.1.1", "LIDC-IDRI-0442.20000101.30178.1.1", "LIDC-IDRI-0999.2000.1.1.1")
    test = ("/data/LIDC/LIDC-IDRI-0442.20000102.5405.1.1/ct_xray_data.h5", "LIDC-IDRI-0010.20000101.1.1.1")
    patients = {_lidc(n) for n in (1, 10, 442, 7)}
    split, changes = split_patients(patients, SplitRule(lists={"train": train, "test": test}))
    assert split == {_lidc(1): "train", _lidc(442): "test", _lidc(10): "test", _lidc(7): ""}
    assert changes == [
        "train: 1 of 3 lines name no patient found here",
        "lidc-idri-0442: in train and test; kept in test, 1 scan leaves train",
        "1 patients are in no list: in no split",
    ]


def test_val_is_drawn_from_the_listed_training_patients_alone():
    rule = SplitRule(val_fraction=0.25, lists={"test": tuple(f"p{n}" for n in range(40))})
    split, changes = split_patients(MANY, rule)
    assert {p for p in MANY if split[p] == "test"} == {f"p{n}" for n in range(40)}
    drawn = sum(name == "val" for name in split.values())
    assert 60 < drawn < 120
    assert changes[-1] == f"val: {drawn} of 360 training patients drawn (val_fraction 0.25)"


def test_a_list_for_val_comes_between_test_and_train():
    rule = SplitRule(lists={"train": ("a1", "b1", "c1"), "val": ("b1", "c1"), "test": ("c1",)})
    split, changes = split_patients({"a1", "b1", "c1"}, rule)
    assert split == {"a1": "train", "b1": "val", "c1": "test"}
    assert len(changes) == 3


def test_a_patient_is_a_whole_word_of_the_line_and_the_longest():
    assert patient_in("LIDC-IDRI-00010.x", {"lidc-idri-0001"}) is None
    assert patient_in("x/p-1-2/scan", {"p-1", "p-1-2"}) == "p-1-2"
    assert patient_in("lidc_idri_0001", {"lidc-idri-0001"}) == "lidc-idri-0001"


def test_scans_that_were_not_prepared_are_in_no_split():
    row = Row("p1", "", "f", "s", "", "", "", "", "ok", "", "", "")
    bad = Row("p2", "", "", "t", "", "", "", "", "refused", "why", "", "")
    rows, _ = assign_splits([row, bad], SplitRule())
    assert [r.split for r in rows] == ["train", ""]


def test_lists_are_read_with_comments_and_windows_ends(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf# scans\r\np1\r\n\r\n p2 \r\n")
    assert read_lists({"train": tmp_path / "train.txt", "val": None}) == {"train": ("p1", "p2")}


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), (b"\n# x\n", "is empty"), (b"\xff\xfe", "cannot be read")]
)
def test_a_useless_list_is_one_line(tmp_path, content, says):
    path = tmp_path / "test.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_lists({"test": path})


def test_lists_of_another_data_set_are_refused():
    with pytest.raises(UserError, match="none of its 1 lines names a patient found here"):
        check_lists(MANY, SplitRule(lists={"test": ("LUNA-0001",)}))


@pytest.mark.parametrize(("test", "val"), [(1.0, 0.0), (-0.1, 0.0), (0.1, 1.0), (0.6, 0.5)])
def test_impossible_fractions(test, val):
    with pytest.raises(UserError, match="allowed"):
        SplitRule(test, val)


def test_phantoms_of_train_and_test_keep_their_numbers():
    assert SPLITS == ("train", "test", "val")  # a phantom's seed is folded with its split's place
    assert len(PhantomSource(2, 8, split="val")) == 2
