"""A patient's id keeps its letters, and two ids are never one patient."""

import unicodedata

import numpy as np
import pytest

from dvg_jax.data.manifest import read_manifest, slug
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.index import choose_series, find_scans
from dvg_jax.data.scans.splits import SplitRule, patient_in, split_patients
from tests.cases.chest import AFFINE, HU, nifti
from tests.data import made

SMALL = HU[:9, ::2, ::2], AFFINE @ np.diag([1, 2, 2, 1])


def _series(folder, patient):
    def change(item, d):
        item.SpecificCharacterSet = "ISO_IR 192"
        item.PatientID = patient

    return made.write_series(folder, *SMALL, change=change)


@pytest.mark.parametrize(
    "ids",
    [
        ("王伟", "李娜"),
        ("Иван-7", "Пётр-7"),
        ("Müller", "Möller"),
        ("מטופל 1", "חולה 1"),
        ("रोगी-१", "रोगी-२"),
        ("A/1", "A-1"),
        ("p#1", "p+1", "P.1"),
        ("***", "+++"),
        ("x" * 150 + "1", "x" * 150 + "2"),
    ],
)
def test_ids_stay_apart(tmp_path, ids):
    for number, name in enumerate(ids):
        _series(tmp_path / f"s{number}", name)
    found = choose_series(find_scans(tmp_path))
    assert [item.reason for item in found] == [""] * len(ids)
    assert len({item.patient for item in found}) == len(ids)
    assert "unnamed" not in {item.patient for item in found}


@pytest.mark.parametrize("ids", [("P-7", "p-7"), ("é1", unicodedata.normalize("NFD", "é1")), ("\uff21\uff11", "a1")])
def test_one_id_in_two_forms_is_one_patient(tmp_path, ids):
    for number, name in enumerate(ids):
        _series(tmp_path / f"s{number}", name)
    assert len({item.patient for item in find_scans(tmp_path)}) == 1


def test_an_id_that_cannot_be_decoded_keeps_its_bytes(tmp_path):
    for name, letter in (("a", b"\xc4"), ("b", b"\xd6")):
        for file in _series(tmp_path / name, "XXXX").iterdir():
            file.write_bytes(file.read_bytes().replace(b"XXXX", letter + b"\xff\xfe7"))
    assert len({item.patient for item in find_scans(tmp_path)}) == 2


def test_folders_that_differ_in_bytes_that_are_no_utf8_are_two_patients(tmp_path):
    for name in (b"M\xfcller", b"M\xf6ller"):
        _series(tmp_path / name.decode("utf-8", "surrogateescape"), "")
    assert {item.patient for item in find_scans(tmp_path)} == {"müller", "möller"}


def test_names_of_files_are_safe_and_lists_match(tmp_path):
    ids = ("王伟" * 30, "../李娜\n:*?", "Ж" * 64)
    for number, name in enumerate(ids):
        nifti(tmp_path / "in" / f"s{number}" / f"scan{number}.nii.gz")
        _series(tmp_path / "in" / f"d{number}", name)
    lists = {"test": (f"scans/{ids[0]}_CT.nii.gz",), "val": (ids[2].lower(),)}
    rule = SplitRule(lists=lists)
    rows, _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16, min_extent_mm=1)), rule)
    split, _ = split_patients({row.patient for row in rows}, rule)
    assert (split[slug(ids[0])], split[slug(ids[2])]) == ("test", "val")
    assert slug(ids[1]) == "李娜"
    for row in rows:
        assert row.status == "ok"
        assert len(row.file.encode()) < 200
        assert not set(row.file) & set('/\\:*?"<>|\n')
        assert (tmp_path / "out" / row.file).is_file()
    assert read_manifest(tmp_path / "out") == rows


def test_a_line_of_a_list_names_a_patient_in_any_script():
    assert patient_in("LIDC/ПАЦИЕНТ_7 scan 2.nii", {"пациент-7", "7"}) == "пациент-7"
