"""Scans that are no scans: each gets one line in the manifest, at once, and leaves nothing half-written."""

import gzip
import os
import re
import resource
import time

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from dvg_jax.data.manifest import NAME, read_manifest, write_manifest
from dvg_jax.data.prepare import main
from dvg_jax.data.scans.folder import Job, Settings, prepare_folder
from dvg_jax.data.sources import PreparedSource
from dvg_jax.errors import UserError
from tests.data import made

HU, AFFINE = made.chest_on_couch()[:, ::2, ::2], made.affine() @ np.diag([1, 2, 2, 1])
SECONDS = 60
"""No bad scan takes a tenth of this on a quiet machine."""


def _nifti(path, array=HU, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)


def _claiming(path, shape):
    """A NIfTI of a few kilobytes whose header states ``shape``."""
    _nifti(path, np.zeros((16, 16, 16), np.int16))
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    raw[40:56] = np.array([3, *shape, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def _meta_image(path, size, data="LOCAL"):
    lines = (
        "ObjectType = Image",
        "NDims = 3",
        f"DimSize = {size}",
        "ElementType = MET_SHORT",
        f"ElementDataFile = {data}",
    )
    path.write_bytes("\n".join((*lines, f"ElementDataFile = {data}", "")).encode() + bytes(4096))


def _nrrd(path, sizes):
    lines = (
        "NRRD0004", "type: short", "dimension: 3", f"sizes: {sizes}", "space: left-posterior-superior",
        "space directions: (1,0,0) (0,1,0) (0,0,1)", "encoding: raw", "endian: little",
    )  # fmt: skip
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + bytes(4096))


def _cut_last(folder):
    last = sorted(made.write_series(folder, HU, AFFINE).iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-200])


def _cut_header(folder):
    for file in made.write_series(folder, HU, AFFINE).iterdir():
        file.write_bytes(file.read_bytes()[:300])


def _jpeg(path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path, format="JPEG")


def _broken_gzip(path):
    _nifti(path, np.random.default_rng(0).integers(-1000, 1000, HU.shape, np.int16))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 64] = bytes(64)
    path.write_bytes(raw)


def _no_orientation(path):
    image = nib.Nifti1Image(HU, AFFINE)
    image.set_sform(AFFINE, 0)
    image.set_qform(AFFINE, 0)
    nib.save(image, path)


def _zero_spacing(path):
    _nifti(path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[280:328] = bytes(48)
    raw[252:254] = bytes(2)  # no qform: the zero sform is all there is
    path.write_bytes(gzip.compress(raw))


def _modality(kind):
    return lambda path: made.write_series(path, HU, AFFINE, change=lambda item, d: setattr(item, "Modality", kind))


BAD = {
    "cut.dicom": (_cut_last, "is cut off"),
    "header.dicom": (_cut_header, "header "),
    "mr": (_modality("MR"), "modality is MR"),
    "pet": (_modality("PT"), "modality is PT"),
    "two": (lambda p: made.write_series(p, HU, AFFINE, skip=range(2, 100)), "2 slices; allowed: 8 or more"),
    "gap": (lambda p: made.write_series(p, HU, AFFINE, skip=(17,)), "step of 10.00 mm"),
    "flat_pixels": (
        lambda p: made.write_series(p, HU, AFFINE, change=lambda item, d: setattr(item, "PixelSpacing", [0, 0])),
        "pixel spacing is",
    ),
    "picture.dcm": (_jpeg, "not a DICOM file"),
    "empty.dcm": (lambda p: p.write_bytes(b""), "not a DICOM file"),
    "nan.nii.gz": (lambda p: _nifti(p, np.where(HU > 500, np.nan, HU)), "NaN"),
    "huge.nii.gz": (lambda p: _claiming(p, (2000, 2000, 2000)), "2000 x 2000 x 2000 voxels, allowed"),
    "huge.nii": (lambda p: _claiming(p, (32767, 32767, 32767)), "allowed"),
    "short.nii": (lambda p: _claiming(p, (900, 900, 900)), "the file holds"),
    "short.nii.gz": (lambda p: _claiming(p, (900, 900, 900)), "the file holds"),
    "negative.nii.gz": (lambda p: _claiming(p, (-5, 10, 10)), "cannot be read|shape"),
    "huge.mha": (lambda p: _meta_image(p, "3000 3000 3000"), "3000 x 3000 x 3000 voxels"),
    "short.mha": (lambda p: _meta_image(p, "1000 1000 1000"), "the file holds"),
    "alone.mhd": (lambda p: _meta_image(p, "40 40 40", "gone.raw"), "cannot be read"),
    "huge.nrrd": (lambda p: _nrrd(p, "3000 3000 3000"), "3000 x 3000 x 3000 voxels"),
    "short.nrrd": (lambda p: _nrrd(p, "1000 1000 1000"), "the file holds"),
    "time.nii.gz": (lambda p: _nifti(p, np.stack([HU, HU], -1)), "allowed: three axes"),
    "colour.nii.gz": (lambda p: _nifti(p, np.zeros(HU.shape, [(c, "u1") for c in "RGB"])), "allowed: one number"),
    "constant.nii.gz": (lambda p: _nifti(p, np.zeros_like(HU)), "values from 0 to 0; allowed: HU"),
    "air.nii.gz": (lambda p: _nifti(p, np.full_like(HU, -1000)), "no body"),
    "grey.nii.gz": (lambda p: _nifti(p, np.clip(HU, 0, 255)), "allowed: HU"),
    "thin.nii.gz": (lambda p: _nifti(p, HU[:4]), "at least 8"),
    "slab.nii.gz": (lambda p: _nifti(p, HU[:9], AFFINE @ np.diag([0.5, 1, 1, 1])), "22 mm foot to head"),
    "lost.nii.gz": (_no_orientation, "no orientation"),
    "zero.nii.gz": (_zero_spacing, "spacing"),
    "empty.nii.gz": (lambda p: p.write_bytes(b""), "cannot be read"),
    "text.nrrd": (lambda p: p.write_text("not an image"), "cannot be read"),
    "gzip.nii.gz": (_broken_gzip, "cannot be read"),
    "folder.nii.gz": (lambda p: p.mkdir(), "a folder that holds no scan"),
    "link.nii.gz": (lambda p: p.symlink_to("nowhere"), "not a file"),
    "pipe.nii.gz": (os.mkfifo, "not a file"),
    "pipe.dcm": (os.mkfifo, "not a file"),
    "flat.mha": (lambda p: SimpleITK.WriteImage(SimpleITK.GetImageFromArray(HU[0]), str(p)), "allowed: 3-D"),
    "bad.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "cannot be read"),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """All of them beside one good scan, prepared in one go: in time, and without the memory that headers claim."""
    root = tmp_path_factory.mktemp("bad")
    (root / "in").mkdir()
    for name, (make, _) in BAD.items():
        make(root / "in" / name)
    _nifti(root / "in" / "good1.nii.gz")
    used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    found, _ = prepare_folder(root / "in", Job(root / "out", Settings(16)))
    assert time.monotonic() - began < SECONDS
    assert 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 5e8
    return root, {row.source: row for row in found}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_scan_is_listed_with_its_reason(rows, name):
    _, listed = rows
    named = [row for source, row in listed.items() if re.split("[/#]", source)[0] == name]
    assert named
    for row in named:
        assert row.status in ("refused", "passed over")
        assert row.split == row.file == ""
        assert re.search(BAD[name][1], row.reason)
        assert "\n" not in row.reason


def test_the_good_scan_among_them_is_prepared_and_nothing_else_is_written(rows):
    root, listed = rows
    good = listed["good1.nii.gz"]
    assert good.status == "ok"
    assert sorted(p.name for p in (root / "out").iterdir()) == [good.file, NAME]


@pytest.mark.parametrize("patient", ["../../x", "/etc/passwd", "a\\..\\b", "..", "名"])
def test_a_patient_id_cannot_lead_out_of_the_folder(tmp_path, patient):
    made.write_series(tmp_path / "in" / "s", HU, AFFINE, patient=patient)
    (row,), _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert row.status == "ok"
    assert (tmp_path / "out" / row.file).resolve().parent == (tmp_path / "out").resolve()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_listed(tmp_path):
    (tmp_path / "in").mkdir()
    _nifti(tmp_path / "in" / "p1.nii.gz")
    (tmp_path / "in" / "p1.nii.gz").chmod(0)
    (row,), _ = prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    assert "cannot be read" in row.reason


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "in").mkdir()
    _nifti(tmp_path / "in" / "p1.nii.gz")
    prepare_folder(tmp_path / "in", Job(tmp_path / "out", Settings(16)))
    return tmp_path


@pytest.mark.parametrize(
    "outside", ["../secret.nii.gz", "/etc/passwd", "a/../../b.nii.gz", "C:\\x.nii.gz", "..\\x.nii.gz"]
)
def test_a_manifest_edited_to_lead_outside_is_refused(prepared, outside):
    text = (prepared / "out" / NAME).read_text()
    (row,) = read_manifest(prepared / "out")
    (prepared / "out" / NAME).write_text(text.replace(row.file, outside))
    for use in (
        lambda: PreparedSource(prepared / "out", "train", 16),
        lambda: prepare_folder(prepared / "in", Job(prepared / "out", Settings(16))),
    ):
        with pytest.raises(UserError, match=r"line 2 has file .* allowed: a name inside"):
            use()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: "", "columns"),
        (lambda text: text.replace("patient", "who", 1), "columns"),
        (lambda text: text[: len(text) // 2] + '"', "cannot be read|columns|number of columns"),
        (lambda text: text.rstrip("\n") + ",more\n", "number of columns"),
        (lambda text: text.replace(",train,", ",training,"), "split 'training'; allowed"),
    ],
)
def test_a_damaged_manifest_is_one_line(prepared, edit, says):
    path = prepared / "out" / NAME
    path.write_text(edit(path.read_text()))
    with pytest.raises(UserError, match=says) as error:
        read_manifest(prepared / "out")
    assert "\n" not in str(error.value)


def test_a_manifest_of_an_earlier_version_is_read(prepared):
    rows = read_manifest(prepared / "out")
    write_manifest(prepared / "out", rows)
    lines = [line.split(",") for line in (prepared / "out" / NAME).read_text().splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if name not in ("series", "checks")]
    (prepared / "out" / NAME).write_text("".join(",".join(line[i] for i in kept) + "\n" for line in lines))
    assert len(PreparedSource(prepared / "out", "train", 16)) == 1


@pytest.mark.parametrize("flag", ["--size=0", "--field_mm=nan", "--field_mm=-1", "--jobs=0", "--val_fraction=1"])
def test_impossible_options_are_refused_before_anything_is_written(fails, tmp_path, flag):
    (tmp_path / "in").mkdir()
    _nifti(tmp_path / "in" / "p1.nii.gz")
    said = fails(main, "--input", tmp_path / "in", "--output", tmp_path / "out", flag)
    assert flag.split("=")[0].strip("-") in said
    assert not (tmp_path / "out").exists()
