"""Heads, abdomens and slabs belong to no split, cut lungs give a remark, and the gravest remark comes first."""

import pytest

from dvg_jax.data.manifest import Row
from dvg_jax.data.prepare import main
from dvg_jax.data.scans import remarks
from dvg_jax.data.scans.cube import prepare_scan
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.splits import SplitRule, assign_splits
from tests.cases import trunk
from tests.data import made

HU = trunk.trunk()


def _checks(low_mm, high_mm):
    return prepare_scan(trunk.scan(trunk.slices(HU, low_mm, high_mm)), 8).checks


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0, 440, ()),
        (0, 350, ("lungs cut at the head end",)),
        (240, 440, ("lungs cut at the foot end",)),
        (0, 260, ("lungs in part: cut where they are widest", "lungs cut at the head end")),  # an abdomen
        (0, 165, ("no lungs in the body: in no split",)),
        (400, 440, ("no lungs in the body: in no split", "partial: 40 of 320 mm")),  # a neck
        (250, 290, ("partial: 40 of 320 mm", "lungs cut at the foot end and the head end")),
    ],
)
def test_what_a_scan_shows_of_the_lungs_is_said(low, high, said):
    checks = _checks(low, high)
    assert [check[: len(begins)] for check, begins in zip(checks, said, strict=False)] == list(said)
    assert all("lung" not in check or "litres" in check for check in checks[len(said) :])


def _row(patient, checks=""):
    return Row(patient, "", f"{patient}.nii.gz", patient, "", "", "", checks, "ok", "", "", "")


NO_CHEST = [
    "no lungs in the body: in no split",
    "lungs in part: cut where they are widest, so this is no chest: in no split; lungs cut at the head end",
]
SLAB = "partial: 40 of 320 mm foot to head: in no split without --keep_partial; padding (1 % of voxels) is air"


def test_they_belong_to_no_split_and_take_no_place_in_one():
    rows = [_row("p1"), _row("p2", "lungs cut at the head end"), *map(_row, "ab", NO_CHEST), _row("slab", SLAB)]
    found, _ = assign_splits(rows, SplitRule(0.01, 0.01))
    assert sorted(row.split for row in found[:2]) == ["test", "train"]
    assert {row.split for row in found[2:]} == {""}
    found, _ = assign_splits(rows, SplitRule(0.01, keep_partial=True))
    assert {row.split for row in found[2:4]} == {""}
    assert found[4].split


def test_a_list_that_names_one_is_told_so():
    rows = [_row("p1"), _row("p2"), _row("p3", NO_CHEST[0])]
    rule = SplitRule(lists={"train": ("p1",), "test": ("p2", "p3")})
    found, changes = assign_splits(rows, rule)
    assert [row.split for row in found] == ["train", "test", ""]
    assert changes == [f"p3: in no split, whatever the lists say ({NO_CHEST[0]})"]


def test_keeping_slabs_needs_no_second_preparation(tmp_path):
    made.write(tmp_path / "in" / "slab1.nii.gz", made.chest_on_couch()[10:22], made.affine())
    job = Job(tmp_path / "out", Settings(8))
    (row,), _ = prepare_folder(tmp_path / "in", job)
    assert (row.status, row.split) == ("ok", "")
    written = (tmp_path / "out" / row.file).stat().st_mtime_ns
    (row,), _ = prepare_folder(tmp_path / "in", job, SplitRule(keep_partial=True))
    assert row.split == "train"
    assert (tmp_path / "out" / row.file).stat().st_mtime_ns == written


def test_the_gravest_remark_is_printed_first_and_padding_not_at_all(tmp_path, capsys):
    padded = made.chest_on_couch()
    padded[:, :2] = -2000
    for number in range(3):
        made.write(tmp_path / "in" / f"a{number}.nii.gz", padded, made.affine())
    made.write(tmp_path / "in" / "z9.nii.gz", padded[10:22], made.affine())
    main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--size=8", "--jobs=1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("look at: z9")
    assert ": partial: 60 of 320 mm foot to head: in no split without --keep_partial; lungs cut" in lines[0]
    assert "padding" not in "".join(lines)
    assert "all scans: 0.8 litres of lung" not in lines  # one has less
    assert "1 in no split" in lines[-1]


def test_a_remark_that_all_scans_share_is_printed_once():
    shared, each = remarks.worth_a_look(["a; b; padding (1 %) is air", "b; c", "b"])
    assert (shared, each) == (["b"], [["a"], ["c"], []])
    assert remarks.worth_a_look(["b", "b"]) == ([], [["b"], ["b"]])
