import csv
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from dvg_jax.ct.frame import frame_affine, spacing, to_frame
from dvg_jax.data.prepare import main
from dvg_jax.data.scans import folder
from dvg_jax.data.scans.body import body_mask
from dvg_jax.data.scans.cube import prepare_volume
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.scans.read import Scan, load_scan
from dvg_jax.data.scans.resample import resample_cube
from dvg_jax.errors import UserError
from tests.data import made
from tests.paths import SHARED, needs_shared

AIR, TISSUE = 0.0, (40 + 1024) / 2500


def _scan(hu=None, affine=None):
    affine = made.affine() if affine is None else affine
    return Scan(made.chest_on_couch() if hu is None else hu, made.SPACING, affine, "SPL")


def test_the_mask_holds_body_and_lungs_and_no_couch():
    mask = body_mask(made.chest_on_couch(), made.SPACING)
    body = made.chest_on_couch(with_couch=False) > -990  # the trunk and the lungs in it
    assert not mask[:, 52:54].any()
    assert mask[body].all()
    # One working voxel (4 or 5 mm) is added back around the skin: at most that shell is extra.
    assert (mask & ~body).sum() < 0.2 * body.sum()


def test_lungs_open_at_both_ends_of_the_scan_are_kept():
    hu = made.chest_on_couch()[12:24]  # every slice cuts both lungs
    assert body_mask(hu, made.SPACING)[:, 30, 20].all()


def test_one_way_averages_and_the_other_interpolates():
    line = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
    affine = frame_affine(line.shape, 1.0)
    halves, follows = resample_cube(line, affine, (5.5, 5.5, 5.5), 12, 6)
    # A coarse cell spans two old voxels; the mean of the linear interpolant over it is (1, 7, 7, 1)/16 of four.
    kernel = np.array([1, 7, 7, 1]) / 16
    expected = np.einsum("i,j,k,ijk", kernel, kernel, kernel, line[3:7, 5:9, 1:5])
    assert halves[2, 3, 1] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(nib.affines.voxel_sizes(follows), 2)
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32), (12, 12, 12))
    fine, _ = resample_cube(ramp, affine, (5.5, 5.5, 5.5), 12, 24)
    # Away from the faces and inside one old interval a ramp stays the ramp at the new centres.
    np.testing.assert_allclose(fine[12, 12, 4:20], np.arange(4, 20) / 2 - 0.25, atol=1e-4)


def test_what_lies_outside_is_background_and_mass_is_kept():
    block = np.zeros((10, 12, 14), np.float32)
    block[3:7, 3:7, 3:7] = 1
    cube, affine = resample_cube(block, frame_affine(block.shape, 2.0), (4.5, 5.5, 6.5), 60, 20)
    assert cube[0].max() == cube[:, -1].max() == 0
    volume = abs(np.linalg.det(affine[:3, :3]))
    assert cube.sum() * volume == pytest.approx(64 * 8, rel=1e-5)


@pytest.mark.parametrize("preset", ["lung", "x2ct"])
def test_markers_stay_where_they_are_in_the_world(preset):
    hu = made.chest_on_couch()
    places = [(10, 30, 30), (20, 22, 40), (30, 36, 26)]
    for place in places:
        hu[tuple(slice(p - 1, p + 2) for p in place)] = 1400
    volume, affine = prepare_volume(_scan(hu), size=64, field_mm=256, preset=preset)
    bright = np.where(volume > 0.75, volume, 0)
    for place in places:
        world = nib.affines.apply_affine(made.affine(), place)
        index = nib.affines.apply_affine(np.linalg.inv(affine), world)
        box = tuple(slice(int(i) - 4, int(i) + 6) for i in index)
        weights = bright[box]
        assert weights.sum() > 0
        grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), -1)
        found = (grid * weights[..., None]).sum((0, 1, 2)) / weights.sum()
        # Thresholding moves the centre of mass by part of a voxel; a wrong axis or half-voxel shift adds up.
        np.testing.assert_allclose(found, index, atol=0.3)


def test_48_orders_of_axes_prepare_alike(tmp_path):
    hu = made.chest_on_couch()
    first, where = prepare_volume(_scan(hu), 16)
    for number, (array, affine) in enumerate(made.reordered(hu, made.affine())):
        path = made.write(tmp_path / f"{number}.nii", array, affine)
        volume, follows = prepare_volume(load_scan(path), 16)
        # The file's float32 affine moves cell edges by about 1e-7 of the field.
        np.testing.assert_allclose(volume, first, atol=1e-4)
        np.testing.assert_allclose(follows, where, atol=1e-3)


def test_values_sides_and_centre():
    volume, affine = prepare_volume(_scan(), size=64, field_mm=320, preset="lung")
    assert volume.dtype == np.float32
    assert volume.min() == AIR
    assert volume[32, 32, 32] == pytest.approx(TISSUE, abs=1e-3)
    lung = volume < 0.2
    lung &= body_mask(volume * 2500 - 1024, (5, 5, 5))
    # The larger lung is the patient's right: low W. Both halves hold the same shell of air around the skin.
    assert lung[:, :, :32].sum() > 1.2 * lung[:, :, 32:].sum()
    assert (volume[:, 32:] > 0.5).sum() > 10 * (volume[:, :32] > 0.5).sum()  # the spine is behind: high H
    body = np.argwhere(volume > 0.1)
    middle = nib.affines.apply_affine(affine, (31.5, 31.5, 31.5))
    np.testing.assert_allclose((body.min(0) + body.max(0))[1:] / 2, 31.5, atol=1)
    np.testing.assert_allclose(middle, made.CENTRE, atol=6)  # the trunk is centred to one voxel of the scan


def test_x2ct_keeps_the_head_end():
    volume, affine = prepare_volume(_scan(), size=32, field_mm=100, preset="x2ct")
    head_face = nib.affines.apply_affine(affine, (31.5, 15.5, 15.5))
    # Upper face of the scan's last slice: (36 - 1) / 2 + 1/2 slices of 5 mm above its middle.
    np.testing.assert_allclose(head_face, np.add(made.CENTRE, (0, 0, 18 * 5.0)), atol=1e-6)
    assert volume.shape == (32, 32, 32)


def test_empty_scan_and_bad_options_are_refused():
    with pytest.raises(UserError, match="no body"):
        prepare_volume(_scan(np.full(made.SHAPE, -1000, np.float32)))
    with pytest.raises(UserError, match="size is 0"):
        prepare_volume(_scan(), size=0)
    with pytest.raises(UserError, match="allowed: x2ct, lung"):
        prepare_volume(_scan(), preset="heart")
    with pytest.raises(UserError, match="values from 0 to 600; allowed: HU"):
        prepare_volume(_scan(made.chest_on_couch().clip(0)))


def _job(output, size=16, **settings):
    return Job(output, Settings(size, **settings))


def _folder(tmp_path):
    source = tmp_path / "scans"
    for number in range(4):
        hu = made.chest_on_couch()
        hu[:, 20:24, 30 + number] = 300
        made.write(source / f"p{number}_scan1.nii.gz", hu, made.affine())
    made.write(source / "p0_scan2.nii.gz", made.chest_on_couch(), made.affine())
    (source / "broken.nii.gz").write_bytes(b"nothing")
    (source / "notes.txt").write_text("not a scan")
    return source


def test_a_folder_becomes_nifti_and_a_manifest(tmp_path, capsys):
    source, output = _folder(tmp_path), tmp_path / "out"
    main(["--input", str(source), "--output", str(output), "--size", "16", "--test_fraction", "0.5", "--jobs", "1"])
    with (output / "manifest.csv").open() as file:
        rows = {row["source"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["broken.nii.gz", "p0_scan1.nii.gz", "p0_scan2.nii.gz"] + [
        f"p{n}_scan1.nii.gz" for n in (1, 2, 3)
    ]
    broken = rows.pop("broken.nii.gz")
    assert broken["status"] == "refused"
    assert "cannot be read" in broken["reason"]
    assert broken["split"] == ""
    assert "broken.nii.gz" in capsys.readouterr().out
    assert rows["p0_scan1.nii.gz"]["patient"] == rows["p0_scan2.nii.gz"]["patient"] == "p0"
    assert rows["p0_scan1.nii.gz"]["split"] == rows["p0_scan2.nii.gz"]["split"]
    assert {row["split"] for row in rows.values()} == {"train", "test"}
    for row in rows.values():
        assert row["spacing"] == "5 4 4"
        hu = load_scan(output / row["file"]).hu
        expected, _ = prepare_volume(load_scan(source / row["source"]), 16)
        np.testing.assert_allclose((hu + 1024) / 2500, expected, atol=0.51 / 2500)  # rounded to whole HU
    assert not list(output.glob(".*"))


def test_an_interrupted_run_goes_on_and_changes_are_noticed(tmp_path, monkeypatch):
    source, output = _folder(tmp_path), tmp_path / "out"
    calls = []
    once = folder.prepare_scan

    def counted(scan, *options):
        calls.append(scan)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return once(scan, *options)

    monkeypatch.setattr(folder, "prepare_scan", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(source, _job(output))
    prepare_folder(source, _job(output))
    assert len(calls) == 6  # two before, the interrupted one, then it and the other two
    prepare_folder(source, _job(output))
    assert len(calls) == 6
    changed = source / "p1_scan1.nii.gz"
    os.utime(changed, ns=(1, 10**18 + 7))
    prepare_folder(source, _job(output))
    assert len(calls) == 7
    prepare_folder(source, _job(output, 12))
    assert len(calls) == 12
    (source / "p3_scan1.nii.gz").unlink()
    rows, _ = prepare_folder(source, _job(output, 12))
    assert len(calls) == 12
    assert "p3_scan1.nii.gz" not in {row.source for row in rows}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "holds no scan"),
        (lambda p: (p.mkdir(), (p / "bad.nii").write_text("x")), "none of its 1 scans"),
    ],
)
def test_a_useless_folder_is_one_line(tmp_path, make, says):
    make(tmp_path / "in")
    with pytest.raises(UserError, match=says) as error:
        main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    assert str(tmp_path / "in") in str(error.value)


def test_the_command_exits_with_2_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "dvg_jax.data.prepare", "--input", str(tmp_path / "in"), "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'in'}: no such folder\n"


@needs_shared
@pytest.mark.parametrize("name", ["lidc_idri_0001", "nsclc_lung1_001", "lungdx_a0002_8mm"])
def test_real_scans_lose_the_couch_and_keep_the_chest(name):
    volume, _ = prepare_volume(load_scan(SHARED / "ct" / f"{name}.nii.gz"), size=64, preset="lung")
    hu = volume * 2500 - 1024
    # The couch lies behind the patient across the scan: behind the body's last row nothing may be left.
    assert (hu[:, -1] > -800).sum() == 0
    inside = body_mask(hu, (5.0, 5.0, 5.0))
    lungs = (inside & (hu < -500)).sum() * 125e-6  # litres
    assert 2 < lungs < 8
    # Below the heart, where contrast medium would count as bone, the midline's bone is the spine: behind, at high H.
    midline = (inside & (hu > 250))[:20, :, 24:40]
    half = int(np.argwhere(inside)[:, 1].mean())
    assert midline[:, half:].sum() > 5 * midline[:, :half].sum()


@needs_shared
def test_a_real_scan_keeps_its_sides():
    volume, _ = prepare_volume(load_scan(SHARED / "ct" / "lidc_idri_0001.nii.gz"), size=64, preset="lung")
    hu = volume * 2500 - 1024
    liver = (hu[8:24] > 0) & (hu[8:24] < 150)
    heart = (hu[24:44, 12:34] > 0) & (hu[24:44, 12:34] < 500)
    assert liver[:, 20:44, :24].sum() > liver[:, 20:44, 40:].sum()  # liver on the right: low W
    assert heart[..., 32:44].sum() > heart[..., 20:32].sum()  # heart to the left: high W


@needs_shared
def test_a_dicom_series_and_its_nifti_copy_prepare_alike():
    series = next((SHARED / "dicom" / "ct" / "LIDC-IDRI" / "LIDC-IDRI-0001").glob("*/*"))
    from_series, there = prepare_volume(load_scan(series), 64)
    from_copy, here = prepare_volume(load_scan(SHARED / "ct" / "lidc_idri_0001.nii.gz"), 64)
    # The copy is at 2 mm and was smoothed; its grid ends up to 2 mm beside the series', and the cubes with it.
    np.testing.assert_allclose(here[:3, 3], there[:3, 3], atol=2)
    assert np.corrcoef(from_series.ravel(), from_copy.ravel())[0, 1] > 0.99
    assert 2500 * np.abs(from_series - from_copy).mean() < 30  # HU; the nearest mirror image differs by far more
    assert 2500 * min(np.abs(from_series - np.flip(from_copy, axis)).mean() for axis in range(3)) > 100


@needs_shared
def test_a_series_of_lossless_jpeg_is_read(tmp_path):
    series = SHARED / "dicom" / "ct" / "RICORD-1A-000082-part"
    scan = load_scan(series)
    assert scan.hu.shape[0] == 32
    assert np.percentile(scan.hu, 99) < 1500
    assert (scan.hu < -900).mean() > 0.2  # air around the patient
    for path in series.glob("*.dcm"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cut = sorted(tmp_path.glob("*.dcm"))[5]
    cut.write_bytes(cut.read_bytes()[:60000])
    with pytest.raises(UserError, match="missing slices"):
        load_scan(tmp_path)


@needs_shared
@pytest.mark.slow
def test_a_real_scan_in_48_orders_of_axes_prepares_alike():
    scan = load_scan(SHARED / "ct" / "lidc_idri_0002.nii.gz")
    hu, affine = scan.hu[::3, ::3, ::3], scan.affine @ np.diag([3, 3, 3, 1])
    first, where = prepare_volume(Scan(hu, spacing(affine), affine, "SPL"), 32)
    for array, other in made.reordered(hu, affine):
        turned, ours = to_frame(array, other, "scan")
        volume, follows = prepare_volume(Scan(np.ascontiguousarray(turned), spacing(ours), ours, "any"), 32)
        np.testing.assert_array_equal(turned, hu)
        np.testing.assert_allclose(volume, first, atol=1e-5)
        np.testing.assert_allclose(follows, where, atol=1e-9)
