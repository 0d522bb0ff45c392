"""A damaged picture of a film is refused: decoders often only warn, and leave grey or old memory."""

import io
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from dvg_jax.data.films.read import read_film
from dvg_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY = np.add.outer(np.linspace(60000, 0, 64), np.linspace(0, 5000, 48)).astype(np.uint16) + RNG.integers(
    0, 64, (64, 48)
).astype(np.uint16)
ROWS = 16
_ROWS_PER_STRIP, _OFFSETS, _COUNTS = 278, 273, 279


def _encoded(kind, array=GREY, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def _tiff(compression, array=GREY):
    return _encoded("TIFF", array, compression=compression, tiffinfo={_ROWS_PER_STRIP: ROWS})


def _strips(raw):
    with Image.open(io.BytesIO(raw)) as picture:
        return list(zip(picture.tag_v2[_OFFSETS], picture.tag_v2[_COUNTS], strict=True))


def _edited(raw, tag, values):
    """Write other numbers into a tag of a little-endian TIFF, whose numbers lie together somewhere behind."""
    (place,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, place)
    data = bytearray(raw)
    for at in range(place + 2, place + 2 + 12 * entries, 12):
        name, kind, count, value = struct.unpack_from("<HHII", raw, at)
        if name == tag:
            form = {3: "H", 4: "I"}[kind]
            inside = count * struct.calcsize(form) <= 4
            struct.pack_into(f"<{count}{form}", data, at + 8 if inside else value, *values[:count])
            return bytes(data)
    raise AssertionError(tag)


def _refused(path, raw):
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_film(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("array", [GREY, (GREY >> 8).astype(np.uint8)], ids=["16 bits", "8 bits"])
def test_a_whole_tiff_is_read(tmp_path, compression, array):
    (tmp_path / "film.tif").write_bytes(_tiff(compression, array))
    seen = read_film(tmp_path / "film.tif").image[::-1].astype(float)
    expected = (array - array.min().astype(float)) / np.ptp(array)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_every_flipped_bit_in_a_deflated_strip_is_noticed(tmp_path):
    raw = _tiff("tiff_adobe_deflate")
    strips = _strips(raw)
    for _ in range(60):
        damaged = bytearray(raw)
        offset, count = strips[RNG.integers(len(strips))]
        damaged[offset + RNG.integers(count)] ^= 1 << RNG.integers(8)
        assert "strip" in _refused(tmp_path / "film.tif", bytes(damaged))


def test_every_flipped_bit_in_a_png_is_noticed(tmp_path):
    raw = _encoded("PNG")
    for _ in range(60):
        damaged = bytearray(raw)
        damaged[RNG.integers(33, len(raw))] ^= 1 << RNG.integers(8)
        _refused(tmp_path / "film.png", bytes(damaged))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_cut_anywhere_is_refused(tmp_path, kind):
    raw = _encoded(kind, (GREY >> 8).astype(np.uint8))
    for end in range(len(raw) // 40, len(raw) - 1, len(raw) // 40):
        _refused(tmp_path / "film", raw[:end])


def test_packed_bits_that_are_too_many_or_too_few_are_noticed(tmp_path):
    flat = (GREY >> 12 << 4).astype(np.uint8)
    raw = _tiff("packbits", flat)
    (offset, _), *_ = _strips(raw)
    for change in (1, -1):
        damaged = bytearray(raw)
        assert damaged[offset] not in (0, 127, 128, 255)
        damaged[offset] += change
        assert "strip 1 of the TIFF holds " in _refused(tmp_path / "film.tif", bytes(damaged))


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        (_OFFSETS, lambda offset, count, end: end, "within the"),
        (_OFFSETS, lambda offset, count, end: end - count + 1, "within the"),
        (_COUNTS, lambda offset, count, end: 0, "within the"),
        (_COUNTS, lambda offset, count, end: 65535, "within the"),
        (_ROWS_PER_STRIP, lambda offset, count, end: ROWS - 1, "a TIFF with 4 strips"),
        (_ROWS_PER_STRIP, lambda offset, count, end: 0, "allowed: 1 or more"),
    ],
)
def test_strips_that_the_file_cannot_hold(tmp_path, compression, tag, value, said):
    raw = _tiff(compression)
    strips = _strips(raw)
    last = value(*strips[-1], len(raw))
    values = [last] if tag == _ROWS_PER_STRIP else [*(s[0 if tag == _OFFSETS else 1] for s in strips[:-1]), last]
    assert said in _refused(tmp_path / "film.tif", _edited(raw, tag, values))


def test_a_strip_that_unpacks_to_more_than_its_pixels(tmp_path):
    tall = np.vstack([GREY[:ROWS], GREY])
    raw = _encoded("TIFF", tall, compression="tiff_adobe_deflate", tiffinfo={_ROWS_PER_STRIP: len(tall)})
    assert "strip 1 of the TIFF holds" in _refused(tmp_path / "film.tif", _edited(raw, 257, [64]))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP", "JPEG2000"])
def test_other_formats_of_pillow_are_named_and_not_opened(tmp_path, kind):
    said = _refused(tmp_path / "film.png", _encoded(kind, (GREY >> 8).astype(np.uint8)))
    assert f"but {'WebP' if kind == 'WEBP' else kind.replace('G2', 'G 2')}; allowed: PNG, JPEG, TIFF or DICOM" in said


def test_no_program_is_started_for_a_film(tmp_path, monkeypatch):
    """Pillow draws an EPS with Ghostscript, which runs what the file says."""

    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    assert "PostScript" in _refused(tmp_path / "film.png", eps)
