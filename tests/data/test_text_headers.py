"""MetaImage and NRRD: equal to what ITK reads where a file is sound, one line where it is not."""

import bz2
import gzip
import time
import zlib

import numpy as np
import pytest
import SimpleITK

from dvg_jax.data.scans.geometry import LPS_TO_RAS
from dvg_jax.data.scans.meta_image import read_meta_image
from dvg_jax.data.scans.nrrd import read_nrrd
from dvg_jax.data.scans.read import load_scan
from dvg_jax.errors import UserError
from tests.cases.chest import HU, meta_image, nifti, nrrd
from tests.paths import SHARED, needs_shared

RAW = HU.astype("<i2").tobytes()
PACKED = zlib.compress(RAW)
READERS = {"mha": read_meta_image, "mhd": read_meta_image, "nrrd": read_nrrd, "nhdr": read_nrrd}
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, 1, -1]),
    "permuted": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "tilted": np.array([[1.0, 0, 0], [0, 0.96, 0.28], [0, -0.28, 0.96]]),
    "sheared": np.array([[1.0, 0, 0], [0, 1, 0.28], [0, 0, 0.96]]),
}


def _same_as_itk(path):
    array, affine, _ = READERS[path.suffix[1:]](path)
    image = SimpleITK.ReadImage(str(path))
    expected = SimpleITK.GetArrayFromImage(image)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected.transpose(2, 1, 0))
    placed = np.eye(4)
    placed[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    placed[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(affine, LPS_TO_RAS @ placed, atol=1e-9)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("packed", [False, True])
def test_files_that_itk_writes_are_read_as_itk_reads_them(tmp_path, suffix, packed):
    random = np.random.default_rng(0)
    for name in TYPES:
        for direction in DIRECTIONS.values():
            image = SimpleITK.GetImageFromArray(random.integers(0, 100, (4, 3, 5)).astype(name))
            image.SetSpacing((0.7, 1.1, 2.5))
            image.SetDirection(direction.ravel().tolist())
            image.SetOrigin((-10.1, 20.2, 1 / 3))
            SimpleITK.WriteImage(image, str(tmp_path / f"a.{suffix}"), packed)
            _same_as_itk(tmp_path / f"a.{suffix}")


BIG = HU.astype(">i2").tobytes()
SLABS = "\n".join(f"p{number}.raw" for number in range(4))
WELL_FORMED = {
    "big_endian.mha": lambda p: _behind(meta_image(p, BinaryDataByteOrderMSB="True"), BIG),
    "big_endian.nrrd": lambda p: _behind(nrrd(p, endian="big"), BIG),
    "old_names.mha": lambda p: meta_image(
        p, omit=("Offset", "TransformMatrix", "ElementSpacing"), Position="1 2 3", Rotation="0 1 0 1 0 0 0 0 1",
        ElementSize="8 8 5", CenterOfRotation="5 5 5",
    ),
    "negative_steps.mha": lambda p: meta_image(p, ElementSpacing="8 -8 5"),
    "from_the_end.mha": lambda p: _behind(meta_image(p, HeaderSize="-1"), b"\0" * 99 + RAW),
    "gzip_inside.mha": lambda p: _behind(_zipped(p, len(gzip.compress(RAW))), gzip.compress(RAW)),
    "tags.mha": lambda p: meta_image(p, **{"0010|0010": "A = B: C", "0008|0081": "Street\nTown\n\nCountry = X"}),
    "windows.mha": lambda p: p.write_bytes(
        (raw := meta_image(p).read_bytes())[: -len(RAW)].replace(b"\n", b"\r\n") + raw[-len(RAW) :]
    ),
    "gzip.nrrd": lambda p: _behind(nrrd(p, encoding="gz"), gzip.compress(RAW[:999]) + gzip.compress(RAW[999:])),
    "hex.nrrd": lambda p: _behind(nrrd(p, encoding="hex"), RAW.hex("\n", 40).encode()),
    "text.nrrd": lambda p: _behind(nrrd(p, encoding="ascii"), b" ".join(b"%d" % value for value in HU.ravel())),
    "skipped.nrrd": lambda p: _behind(nrrd(p, line_skip="2", byte_skip="3"), b"x\ny\nzzz" + RAW),
    "skipped_gzip.nrrd": lambda p: _behind(nrrd(p, encoding="gzip", byte_skip="3"), gzip.compress(b"zzz" + RAW)),
    "from_the_end.nrrd": lambda p: _behind(nrrd(p, byteskip="-1"), b"zzz" + RAW),
    "comments.nrrd": lambda p: nrrd(
        p, kinds="domain domain domain\n# a: b\nkey:=a: b", measurement_frame="(1,0,0) (0,1,0) (0,0,1)"
    ),
    "one_value.nrrd": lambda p: nrrd(
        p, dimension="4", sizes="1 " + " ".join(map(str, HU.shape[::-1])),
        space_directions="none (8,0,0) (0,8,0) (0,0,5)", kinds="list domain domain domain",
    ),
    "slabs.nhdr": lambda p: _parts(nrrd(p, f"LIST 3\n{SLABS}"), 4),
    "pattern.nhdr": lambda p: _parts(nrrd(p, "p%d.raw 0 35 1"), 36),
    "list.mhd": lambda p: _parts(meta_image(p, "LIST\n" + "\n".join(f"p{number}.raw" for number in range(36))), 36),
}  # fmt: skip


def _behind(path, voxels):
    path.write_bytes(path.read_bytes().removesuffix(RAW) + voxels)


def _zipped(path, size):
    return meta_image(path, CompressedData="True", CompressedDataSize=str(size))


def _parts(path, count):
    for number in range(count):
        part = len(RAW) // count
        path.with_name(f"p{number}.raw").write_bytes(RAW[number * part : (number + 1) * part])


@pytest.mark.parametrize("name", WELL_FORMED)
def test_what_the_formats_allow_is_read_as_itk_reads_it(tmp_path, name):
    WELL_FORMED[name](tmp_path / name)
    _same_as_itk(tmp_path / name)


def test_bzip2_which_itk_cannot_read_is_the_same_scan(tmp_path):
    _behind(nrrd(tmp_path / "a.nrrd", encoding="bzip2"), bz2.compress(RAW))
    np.testing.assert_array_equal(load_scan(tmp_path / "a.nrrd").hu, HU)


def _changed(path, packed, at):
    _behind(path, packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :])


def _link(path):
    meta_image(path, "b.raw")
    path.with_name("b.raw").symlink_to("/etc/passwd")


REFUSED = {
    "checksum.mha": (lambda p: _changed(_zipped(p, len(PACKED)), PACKED, -2), "compressed voxels are damaged"),
    "cut.mha": (lambda p: _behind(_zipped(p, len(PACKED) - 9), PACKED[:-9]), "end too soon"),
    "behind.mha": (lambda p: _behind(_zipped(p, len(PACKED)), PACKED + b"x"), "CompressedDataSize is"),
    "bomb.mha": (lambda p: _behind(_zipped(p, 0), zlib.compress(bytes(10**6))), "holds more than"),
    "checksum.nrrd": (lambda p: _changed(nrrd(p, encoding="gzip"), gzip.compress(RAW), -5), "voxels are damaged"),
    "checksum2.nrrd": (lambda p: _changed(nrrd(p, encoding="bz2"), bz2.compress(RAW), -5), "voxels are damaged"),
    "more.nrrd": (lambda p: _behind(nrrd(p, encoding="gzip"), gzip.compress(RAW + b"x")), "holds more than"),
    "less.nrrd": (lambda p: _behind(nrrd(p, encoding="gzip"), gzip.compress(RAW[:-1])), "holds .* of the"),
    "more.mha": (lambda p: _behind(meta_image(p), b"x" + RAW), "holds more than"),
    "less.mha": (lambda p: _behind(meta_image(p), RAW[1:]), "holds .* of the|the file holds"),
    "zero.mha": (lambda p: _behind(meta_image(p), b"x" + RAW[:-1] + b"\0"), "holds more than"),
    "one_more.nii": (lambda p: p.write_bytes((raw := nifti(p).read_bytes())[:9999] + b"x" + raw[9999:]), "holds more"),
    "dims.mha": (lambda p: meta_image(p, NDims="-1"), "NDims is '-1'"),
    "sizes.mha": (lambda p: meta_image(p, DimSize="33 30 -36"), "dimsize is"),
    "name.mha": (lambda p: meta_image(p, Name="A" * 300), "name has 300 characters"),
    "field.nrrd": (lambda p: nrrd(p, space="left-posterior-superior" + "A" * 1000), "space has 1023 characters"),
    "line.mha": (lambda p: meta_image(p, Tag="A" * 70_000), "line 10 of its header is long"),
    "lines.mha": (lambda p: meta_image(p, Tag="\n" * 30_000), "over 20000 lines"),
    "no_end.mha": (lambda p: p.write_bytes(b"ObjectType = Image\nNDims = 3\n"), "its header has no end"),
    "twice.nrrd": (lambda p: nrrd(p, sizes="1 2 3\nsizes: 33 30 36"), "states sizes twice"),
    "unknown.nrrd": (lambda p: nrrd(p, sises="1 2 3"), "line 10 of its header is 'sises"),
    "matrix.mha": (lambda p: meta_image(p, TransformMatrix="1 0 0 1e308 1 0 0 0 1"), "transformmatrix is"),
    "flat.mha": (lambda p: meta_image(p, TransformMatrix="1 0 0 1 0 0 0 0 1"), "axes are parallel"),
    "far.nrrd": (lambda p: nrrd(p, space_origin="(0,0,2e6)"), "position .* allowed: within 1e"),
    "nan.nrrd": (lambda p: nrrd(p, space_directions="(8,0,0) (0,nan,0) (0,0,5)"), "space directions is"),
    "two_places.mha": (lambda p: meta_image(p, Origin="1 2 3"), "offset and origin contradict each other"),
    "scaled.mha": (lambda p: meta_image(p, ElementToIntensityFunctionSlope="2"), "functionslope is '2'; allowed: 1"),
    "text.mha": (lambda p: meta_image(p, BinaryData="False"), "binarydata is False; allowed: True"),
    "array.mha": (lambda p: meta_image(p, ElementNumberOfChannels="3"), "channels is '3'; allowed: 1"),
    "colour.nrrd": (
        lambda p: nrrd(p, dimension="4", sizes="3 11 30 36", space_directions="none (8,0,0) (0,8,0) (0,0,5)"),
        "allowed: 3-D with one value",
    ),
    "order.nrrd": (lambda p: nrrd(p, omit=("endian",)), "endian is ''; allowed: little, big"),
    "encoding.nrrd": (lambda p: nrrd(p, encoding="zrl"), "encoding is 'zrl'; allowed: raw, gzip"),
    "passwd.nhdr": (lambda p: nrrd(p, "/etc/passwd", type="uchar", sizes="8 8 8"), "header's own folder"),
    "up.mhd": (lambda p: meta_image(p, "x/../../b.raw"), "names its data as .* allowed: a file in the header's own"),
    "drive.mhd": (lambda p: meta_image(p, "C:\\b.raw"), "allowed: a file in the header's own folder"),
    "link.mhd": (_link, "allowed: a file in the header's own folder"),
    "list.mhd": (lambda p: meta_image(p, "LIST\nb.raw\n/etc/passwd"), "allowed: a file in the header's own folder"),
    "pattern.mhd": (lambda p: meta_image(p, "%s%d 1 8 1"), "one %d and first, last, step"),
    "wide.mhd": (lambda p: meta_image(p, "b%0999999d 1 8 1"), "one %d and first, last, step"),
    "endless.mhd": (lambda p: meta_image(p, "b%d 1 999999999 1"), "for up to 4096 files"),
    "few.mhd": (lambda p: _parts(meta_image(p, "p%d.raw 0 3 1"), 4), "names 4 files"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unsound_is_refused_in_one_line(tmp_path, name):
    write, says = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=says) as error:
        load_scan(tmp_path / name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@needs_shared
@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd", "nhdr", "nii"])
def test_hostile_files_are_refused_in_one_line_at_once(suffix):
    for path in (SHARED / "cases" / "hostile").glob(f"*.{suffix}"):
        began = time.monotonic()
        with pytest.raises(UserError, match=r"allowed|cannot be read") as error:
            load_scan(path)
        assert "\n" not in str(error.value)
        assert time.monotonic() - began < 1


def test_data_that_the_header_and_its_link_share_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.raw").write_bytes(RAW)
    meta_image(tmp_path / "in" / "a.mhd", "b.raw")
    for name in ("a.mhd", "b.raw"):
        (tmp_path / name).symlink_to(f"in/{name}")
    np.testing.assert_array_equal(load_scan(tmp_path / "a.mhd").hu, HU)


def test_padding_behind_voxels_is_said(tmp_path):
    for path in (meta_image(tmp_path / "a.mha"), nifti(tmp_path / "a.nii")):
        path.write_bytes(path.read_bytes() + bytes(512))
        scan = load_scan(path)
        np.testing.assert_array_equal(scan.hu, HU)
        assert scan.notes == (f"zeros behind the voxels of {path.name} were passed over",)


DAMAGED = {
    "a.mha": lambda p: meta_image(p),
    "packed.mha": lambda p: _behind(_zipped(p, len(PACKED)), PACKED),
    "a.nrrd": lambda p: nrrd(p),
    "packed.nrrd": lambda p: _behind(nrrd(p, encoding="gzip"), gzip.compress(RAW)),
    "packed_2.nrrd": lambda p: _behind(nrrd(p, encoding="bzip2"), bz2.compress(RAW)),
    "a.nii": nifti,
    "packed.nii.gz": nifti,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_random_damage_is_refused_or_harmless(tmp_path, name):
    """Anywhere: only UserError. In packed voxels: refused, or the same scan. A byte more or less is never passed."""
    path, random = tmp_path / name, np.random.default_rng(0)
    DAMAGED[name](path)
    sound = path.read_bytes()
    for number in range(40):
        raw = bytearray(sound)
        header = 0 if path.suffix == ".gz" else 352
        at = int(random.integers(header, len(raw)) if number % 2 else random.integers(0, 352))
        raw[at : at + 1] = (bytes([raw[at] ^ (1 << int(random.integers(8)))]), bytes([raw[at], 0]), b"")[number % 3]
        path.write_bytes(raw)
        try:
            scan = load_scan(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        assert len(raw) == len(sound) or at < header
        if at >= header and name.startswith("packed"):
            np.testing.assert_array_equal(scan.hu, HU)
