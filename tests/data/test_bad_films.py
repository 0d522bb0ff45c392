"""Films as people have them: one line that says what is wrong, or a repair that is said; nothing crashes or hangs."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from dvg_jax.data.films.read import read_film
from dvg_jax.errors import UserError
from dvg_jax.reconstruct import command as reconstruct
from dvg_jax.reconstruct.films import parse_film_request
from tests.data.made_films import write_dicom
from tests.paths import SHARED, needs_shared


def grey(shape=(48, 40)):
    """Head first: bright at the top."""
    return np.broadcast_to(np.linspace(255, 0, shape[0])[:, None], shape).astype(np.uint8).copy()


def picture(path, array=None, **options):
    Image.fromarray(grey() if array is None else array).save(path, **options)
    return path


def truncated(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def noise():
    return np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)


def png_header(path, width, height):
    """A PNG that claims a size and holds nothing of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    return path


def photo():
    colours = np.zeros((40, 40, 3), np.uint8)
    colours[..., 0], colours[..., 1] = 200, grey((40, 40))
    return colours


def nan_tiff(path):
    values = grey().astype(np.float32)
    values[3, 4] = np.nan
    return picture(path, values)


def text(path, content):
    path.write_bytes(content)
    return path


def pages(path):
    first, second = Image.fromarray(grey()), Image.fromarray(255 - grey())
    first.save(path, save_all=True, append_images=[second])
    return path


def cut_dicom(path):
    return truncated(write_dicom(path, noise().astype(np.uint16)), 0.8)


def pixelless(path):
    data = pydicom.dcmread(write_dicom(path, noise()))
    del data.PixelData
    data.save_as(path)
    return path


MALFORMED = {
    "truncated png": ("film.png", lambda p: truncated(picture(p, noise())), "cannot be read"),
    "truncated jpeg": ("film.jpg", lambda p: truncated(picture(p, noise())), "cannot be read"),
    "truncated dicom": ("film.dcm", cut_dicom, "pixels are cut short"),
    "dicom cut in its header": (
        "film.dcm",
        lambda p: truncated(write_dicom(p, noise()), 0.02),
        "cannot be read|without",
    ),
    "one pixel": ("film.png", lambda p: picture(p, np.uint8([[7]])), "at least 16 pixels"),
    "constant": ("film.png", lambda p: picture(p, np.full((40, 40), 7, np.uint8)), "not constant"),
    "colour photo": ("film.png", lambda p: picture(p, photo()), "a colour photo"),
    "CT slice": ("film.dcm", lambda p: write_dicom(p, noise(), "CT"), "modality is CT; allowed: CR, DX"),
    "MR slice named png": ("film.png", lambda p: write_dicom(p, noise(), "MR"), "modality is MR"),
    "frames": ("film.dcm", lambda p: write_dicom(p, np.stack([noise()] * 3)), "holds 3 frames"),
    "no pixels": ("film.dcm", pixelless, "without pixels"),
    "huge dicom": ("film.dcm", lambda p: write_dicom(p, noise(), Rows=60000, Columns=60000), "60000 x 60000 pixels"),
    "empty": ("film.png", lambda p: text(p, b""), "an empty file"),
    "text": ("film.png", lambda p: text(p, b"left lung clear"), "not a picture"),
    "huge png": ("film.png", lambda p: png_header(p, 100_000, 100_000), "more pixels than allowed: 100,000,000"),
    "large png": ("film.png", lambda p: png_header(p, 12_000, 12_000), "12000 x 12000 pixels; allowed: 100,000,000"),
    "two pages": ("film.tif", pages, "holds 2 pictures"),
    "nan tiff": ("film.tif", nan_tiff, "finite values"),
    "folder": ("film.png", lambda p: (p.mkdir(), p)[1], "no such film"),
    "absent": ("film.png", lambda p: p, "no such film"),
}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.filterwarnings("ignore")
def test_a_malformed_film_is_one_line(tmp_path, kind):
    name, make, said = MALFORMED[kind]
    with pytest.raises(UserError, match=said) as refused:
        read_film(make(tmp_path / name))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["truncated dicom", "colour photo", "CT slice", "huge png"])
def test_the_command_leaves_nothing_behind(fails, tmp_path, kind):
    name, make, _ = MALFORMED[kind]
    film = make(tmp_path / name)
    output = tmp_path / "out"
    output.mkdir()
    line = fails(
        reconstruct.main, f"--workdir={tmp_path}", f"--xray={film}@0", f"--xray={film}@90",
        f"--output={output / 'ct.nii.gz'}",
    )  # fmt: skip
    assert name in line
    assert not list(output.iterdir())


def test_what_a_file_is_decides_not_its_name(tmp_path):
    picture(tmp_path / "film.jpg").rename(tmp_path / "film.dcm")
    assert read_film(tmp_path / "film.dcm").facts.format == "JPEG"
    write_dicom(tmp_path / "film.png", grey())
    assert read_film(tmp_path / "film.png").facts.format == "DICOM"


def test_palette_transparency_and_one_bit(tmp_path):
    expected = read_film(picture(tmp_path / "plain.png")).image
    image = Image.fromarray(grey())
    image.convert("P").save(tmp_path / "palette.png")
    np.testing.assert_allclose(read_film(tmp_path / "palette.png").image, expected, atol=0.01)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(grey() > 250, 255, 254).astype(np.uint8)))
    clear.save(tmp_path / "clear.png")
    film = read_film(tmp_path / "clear.png")
    np.testing.assert_allclose(film.image, expected, atol=0.02)
    assert "transparency laid on black" in film.facts.repairs
    image.convert("1").save(tmp_path / "one.png")
    assert read_film(tmp_path / "one.png").facts.bits == 1


def test_a_camera_that_was_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture must be turned clockwise by 90 degrees to be seen
    Image.fromarray(np.rot90(grey())).save(tmp_path / "turned.jpg", exif=exif)
    film = read_film(tmp_path / "turned.jpg")
    np.testing.assert_allclose(film.image, read_film(picture(tmp_path / "plain.png")).image, atol=0.02)
    assert film.facts.repairs == ("turned as its EXIF orientation says",)


def test_sixteen_bits_of_both_kinds(tmp_path):
    deep = grey().astype(np.uint16) * 257
    expected = read_film(picture(tmp_path / "plain.png")).image
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        stored = deep if kind == "MONOCHROME2" else 65535 - deep
        film = read_film(write_dicom(tmp_path / "film.dcm", stored, PhotometricInterpretation=kind))
        np.testing.assert_allclose(film.image, expected, atol=1e-3)
        assert film.facts.bits == 16
    film = read_film(write_dicom(tmp_path / "film.dcm", 65535 - deep, PresentationLUTShape="INVERSE"))
    np.testing.assert_allclose(film.image, expected, atol=1e-3)


def test_a_window_is_applied_and_one_that_shows_nothing_is_not(tmp_path):
    deep = grey().astype(np.uint16) * 100
    film = read_film(write_dicom(tmp_path / "film.dcm", deep, WindowCenter=12750, WindowWidth=2000))
    assert film.facts.window == "centre 12750 width 2000"
    assert (film.image == 0).mean() > 0.3
    film = read_film(write_dicom(tmp_path / "film.dcm", deep, WindowCenter=-9000, WindowWidth=10))
    assert film.facts.window is None
    assert any("window not applied" in repair for repair in film.facts.repairs)


@pytest.mark.parametrize(
    ("text", "name", "angle", "flip"),
    [
        ("a b.png@0", "a b.png", 0, False),
        ("me@home.png@90", "me@home.png", 90, False),
        ("brust-röntgen 胸.png@-90:flip", "brust-röntgen 胸.png", -90, True),
        ("../../etc/passwd@0", "../../etc/passwd", 0, False),
    ],
)
def test_names_of_any_kind(text, name, angle, flip):
    assert parse_film_request(text) == (Path(name), angle, flip)


@pytest.mark.parametrize("text", ["film.png", "film.png@", "@0", "film.png@nan", "film.png@0:mirror", "film.png@1@"])
def test_a_request_that_cannot_be_read(text):
    with pytest.raises(UserError, match="FILE@ANGLE"):
        parse_film_request(text)


def test_a_path_that_leads_elsewhere_is_read_as_a_film_or_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="not a picture") as refused:
        read_film(tmp_path / "in" / ".." / "secret.txt")
    assert "secret\n" not in str(refused.value)


@needs_shared
def test_a_lossless_jpeg_that_pillow_cannot_decode(tmp_path):
    slice_path = next((SHARED / "dicom" / "ct" / "RICORD-1A-000082-part").rglob("*.dcm"))
    data = pydicom.dcmread(slice_path)
    data.Modality = "DX"
    data.save_as(tmp_path / "film.dcm")
    film = read_film(tmp_path / "film.dcm")
    assert film.image.shape == (data.Rows, data.Columns)
    assert "decoded by GDCM" in film.facts.repairs
