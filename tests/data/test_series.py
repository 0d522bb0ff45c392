"""DICOM trees as they come: mixed folders, several series, tilted gantries, what is no volume."""

import numpy as np
import pytest

from dvg_jax.data.scans.index import choose_series, find_scans
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.data import made

HU, AFFINE = made.chest_on_couch(), made.affine()
SMALL = (HU[:12, ::4, ::4], AFFINE @ np.diag([1, 4, 4, 1]))


def _change(slices=range(1000), **fields):
    def change(item, d):
        for name, value in fields.items() if d in slices else ():
            setattr(item, name, value)

    return change


def _only(root):
    (found,) = find_scans(root)
    return found


def test_two_series_in_one_folder_without_suffixes_are_told_apart(tmp_path):
    for part, name in enumerate(("a", "b")):
        for number, file in enumerate(sorted(made.write_series(tmp_path / name, *SMALL).iterdir())):
            file.rename(tmp_path / f"{10_000 * part + number:06d}")
        (tmp_path / name).rmdir()
    found = find_scans(tmp_path)
    assert [item.reason for item in found] == ["", ""]
    assert all(item.source == f".#{item.uid}" for item in found)
    assert {item.load().hu.shape for item in found} == {SMALL[0].shape}
    chosen = choose_series(found)
    assert [item.passed_over for item in chosen].count(True) == 1
    assert next(item.reason for item in chosen if item.passed_over).startswith("one series a patient: ")


def test_a_series_spread_over_folders_is_one(tmp_path):
    files = sorted(made.write_series(tmp_path / "all", *SMALL).iterdir())
    for file in files[::2]:
        (tmp_path / file.stem).mkdir()
        file.rename(tmp_path / file.stem / "IM0")
    np.testing.assert_array_equal(_only(tmp_path).load().hu, SMALL[0])


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}),
        ({"ConvolutionKernel": "STANDARD"}, {"ConvolutionKernel": "BONE"}),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
    ],
)
def test_the_better_series_is_chosen(tmp_path, better, worse):
    made.write_series(tmp_path / "1worse", *SMALL, change=_change(**worse))
    made.write_series(tmp_path / "2better", *SMALL, change=_change(**better))
    first, second = choose_series(find_scans(tmp_path))
    assert "2better is preferred" in first.reason
    assert second.reason == ""


def test_most_slices_win_and_another_patient_is_not_touched(tmp_path):
    made.write_series(tmp_path / "short", SMALL[0][:9], SMALL[1])
    made.write_series(tmp_path / "long", *SMALL)
    made.write_series(tmp_path / "other", SMALL[0][:9], SMALL[1], patient="Q")
    kept = [item.source for item in choose_series(find_scans(tmp_path)) if not item.reason]
    assert kept == ["long", "other"]
    again = choose_series(find_scans(tmp_path), frozenset({"long"}))
    assert [item.source for item in again if not item.reason] == ["long", "other", "short"]


@pytest.mark.parametrize(
    ("fields", "says", "passed"),
    [
        ({"Modality": "MR"}, "modality is MR", True),
        ({"Modality": "RTSTRUCT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "modality is RTSTRUCT", True),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser", True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture", True),
        ({"NumberOfFrames": 40}, "multi-frame", False),
        ({"ImagePositionPatient": None}, "no position", False),
        ({"PixelSpacing": [0, 0]}, r"pixel spacing is \(0.0, 0.0\)", False),
    ],
)
def test_what_is_no_volume_says_why(tmp_path, fields, says, passed):
    made.write_series(tmp_path, *SMALL, change=_change(**fields))
    found = _only(tmp_path)
    assert found.passed_over is passed
    with pytest.raises(UserError, match=says):
        load_scan(tmp_path)
    with pytest.raises(UserError, match=says):
        found.load()


def test_a_scout_within_the_series_is_left_out_and_said(tmp_path):
    made.write_series(tmp_path, *SMALL, change=_change([0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    scan = _only(tmp_path).load()
    assert scan.hu.shape[0] == 11
    assert scan.notes == ("1 files left out: localiser (scout image)",)


def test_mixed_orientations_are_refused_but_for_a_few_slices(tmp_path):
    turned = [0, 1, 0, 0, 0, -1]
    few = made.write_series(tmp_path / "few", *SMALL, change=_change(range(2), ImageOrientationPatient=turned))
    assert load_scan(few).hu.shape[0] == 10
    assert load_scan(few).notes == ("2 slices of another orientation, spacing or matrix left out",)
    tall = HU[:20, ::4, ::4]
    half = made.write_series(
        tmp_path / "half", tall, SMALL[1], change=_change(range(9), ImageOrientationPatient=turned)
    )
    with pytest.raises(UserError, match="11 and 9 slices of different orientation"):
        load_scan(half)


def test_two_slices_in_one_place_are_refused_and_copies_are_not(tmp_path):
    folder = made.write_series(tmp_path / "s", *SMALL)
    place = list(_only(folder).series.slices[4].position)
    (folder / "copy.dcm").write_bytes(sorted(folder.iterdir())[3].read_bytes())
    scan = load_scan(folder)
    assert scan.notes == ("1 copies of slices left out",)
    np.testing.assert_array_equal(scan.hu, SMALL[0])
    double = made.write_series(tmp_path / "d", *SMALL, change=_change([5], ImagePositionPatient=place))
    with pytest.raises(UserError, match=r"1 slices lie where another lies \(slice0(28|35)\.dcm and slice0(28|35)"):
        load_scan(double)


def test_padding_becomes_air(tmp_path):
    padded = HU[:12].copy()
    padded[:, :5] = 976  # stored 2000: a padding value that reads as bone
    folder = made.write_series(tmp_path, padded, AFFINE, change=_change(PixelPaddingValue=2000))
    scan = load_scan(folder)
    assert (scan.hu[:, :5] == -1024).all()
    np.testing.assert_array_equal(scan.hu[:, 5:], padded[:, 5:])
    assert scan.notes == ("padding (8.3% of voxels, under -1024 HU) is air",)


@pytest.mark.parametrize("tilt", [-18.0, 12.0])
def test_a_tilted_gantry_is_straightened(tmp_path, tilt):
    """The slices are tilted, the table goes along z: markers must lie in the world where they were."""
    hu = np.full((30, 50, 50), -1000.0, np.float32)
    places = [(8, 15, 20), (15, 25, 30), (22, 35, 25)]
    for place in places:
        hu[tuple(slice(p - 1, p + 2) for p in place)] = 1000
    affine = AFFINE.copy()
    affine[:3, 1] = 4 * np.array([0, -np.cos(np.radians(tilt)), np.sin(np.radians(tilt))])
    scan = load_scan(made.write_series(tmp_path, hu, affine))
    assert scan.notes == (f"axes {abs(tilt):.1f} degrees askew (tilted gantry) were straightened",)
    axes = scan.affine[:3, :3] / np.array(scan.spacing_mm)
    np.testing.assert_allclose(axes, [[0, 0, -1], [0, -1, 0], [1, 0, 0]], atol=1e-6)
    mass = np.clip(scan.hu + 1000, 0, None)
    for place in places:
        there = np.linalg.solve(scan.affine, affine @ (*place, 1))[:3]
        box = tuple(slice(round(i) - 4, round(i) + 5) for i in there)
        grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), -1)
        found = (grid * mass[box][..., None]).sum((0, 1, 2)) / mass[box].sum()
        np.testing.assert_allclose(found, there, atol=0.15)


def test_a_series_without_patient_id_belongs_to_its_first_folder(tmp_path):
    for name in ("anna", "ben"):
        made.write_series(tmp_path / name / "study1" / "series1", *SMALL, patient="")
    assert [item.patient for item in choose_series(find_scans(tmp_path))] == ["anna", "ben"]


def test_links_that_lead_in_a_circle_end(tmp_path):
    made.write_series(tmp_path / "real", *SMALL)
    (tmp_path / "real" / "round").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    assert len(find_scans(tmp_path)) == 1
