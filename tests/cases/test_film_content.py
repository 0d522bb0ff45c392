"""The content of a film's file decides how it is read, and a refusal gives the true reason in plain words."""

import re

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from dvg_jax.data.films.read import read_film
from dvg_jax.errors import UserError
from tests.cases.made_dicom import brightness, dataset, save, table

PYTHON_WORDS = re.compile(r"' object|attribute '|NoneType|unpack|dtype|argument|Errno|Error|buffer|FileDataset")


def grey(white=255):
    return np.rint(brightness() * white).astype(np.uint8 if white == 255 else np.uint16)


def made(**tags):
    return dataset(grey(4095), **tags)


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_film(path)
    told = str(refused.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    assert not PYTHON_WORDS.search(told.removeprefix(str(path))), told
    return told.removeprefix(f"{path}: ")


def shows_the_film(path):
    return np.corrcoef(read_film(path).image.ravel(), brightness()[::-1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", ["film.dcm", "film.png", "film"])
def test_dicom_without_preamble_or_head(tmp_path, name):
    whole = save(made(), tmp_path / "whole.dcm").read_bytes()
    (tmp_path / name).write_bytes(whole[132:])
    assert shows_the_film(tmp_path / name)
    bare = made()
    del bare.file_meta, bare.preamble
    for implicit in (True, False):
        pydicom.dcmwrite(tmp_path / name, bare, implicit_vr=implicit, little_endian=True, force_encoding=True)
        assert (tmp_path / name).read_bytes()[:2] == b"\x08\0"
        assert shows_the_film(tmp_path / name)


def test_deflated_dicom_under_any_name(tmp_path):
    deflated = dataset(grey(4095), syntax=DeflatedExplicitVRLittleEndian)
    assert shows_the_film(save(deflated, tmp_path / "film.jpg"))


def test_a_phones_jpeg_of_several_pictures(tmp_path):
    first, second = Image.fromarray(grey()), Image.fromarray(grey()[:20])
    first.save(tmp_path / "film.jpg", "MPO", save_all=True, append_images=[second])
    assert shows_the_film(tmp_path / "film.jpg")
    assert "the first of 2 pictures" in read_film(tmp_path / "film.jpg").facts.repairs[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pictures_under_wrong_names(tmp_path, kind):
    for name in ("film.dcm", "film.nii.gz", "film.tif", "film.png"):
        Image.fromarray(grey()).save(tmp_path / name, kind)
        assert shows_the_film(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"%PDF-1.7 ", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "PostScript"),
        (b"<?xml version='1.0'?><svg width='64'/>", "SVG"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "a PNG that is damaged"),
        (b"", "an empty file"),
        (b"left lung clear", "not a picture; allowed: PNG"),
        (b"\x08\0 no DICOM at all", "not a picture; allowed: PNG"),
    ],
)
def test_what_is_no_film_is_named(tmp_path, content, said):
    (tmp_path / "film.png").write_bytes(content)
    assert said in refusal(tmp_path / "film.png")


@pytest.mark.parametrize(
    "name",
    [
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
    ],
)
def test_an_attribute_that_decides_pixels_is_missing_or_makes_no_sense(tmp_path, name):
    film = made()
    del film[name]
    assert f"its {name} is missing; allowed: " in refusal(save(film, tmp_path / "film.dcm"))
    film.add_new(name, "LO", "nine")
    assert refusal(save(film, tmp_path / "film.dcm")).startswith(
        f"its {name} is NINE" if name[:5] == "Photo" else f"its {name} is nine"
    )
    # Raw bytes in place of the value are refused too.
    film[name] = pydicom.DataElement(name, "OB", b"\x01\x02\x03\xff")
    assert refusal(save(film, tmp_path / "film.dcm"))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"BitsAllocated": 12}, "its BitsAllocated is 12; allowed: 1, 8, 16, 32"),
        ({"BitsStored": 40}, "its BitsStored is 40"),
        ({"SamplesPerPixel": 3}, "its SamplesPerPixel is 3; allowed: 1"),
        ({"PhotometricInterpretation": "HSV"}, "its PhotometricInterpretation is HSV; allowed: MONOCHROME1"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "its RescaleSlope is 0"),
        ({"Rows": 80}, "its pixels are cut short: 2560 of 5120 bytes"),
        ({"NumberOfFrames": 2}, "holds 2 frames"),
        ({"VOILUTSequence": table(np.arange(4000), 0)}, None),
        ({"ModalityLUTSequence": table(np.arange(4000), 0)}, None),
    ],
)
def test_attributes_that_contradict_the_pixels(tmp_path, tags, said):
    film = made(**tags)
    if said is None:
        (name,) = tags
        tags[name][0].LUTDescriptor = [4096, 0, 12]
        said = f"its {name} holds 4000 entries; allowed: 4096, as its LUTDescriptor says"
    assert said in refusal(save(film, tmp_path / "film.dcm"))


def test_attributes_that_decide_nothing_are_left_out(tmp_path):
    film = made(ViewPosition="PA")
    film["ImagerPixelSpacing"] = pydicom.DataElement("ImagerPixelSpacing", "LO", ["0,143", "0,143"])
    film["DistanceSourceToDetector"] = pydicom.DataElement("DistanceSourceToDetector", "LO", "far")
    assert shows_the_film(save(film, tmp_path / "film.dcm"))
    facts = read_film(tmp_path / "film.dcm").facts
    assert facts.pixel_mm is None
    assert facts.repairs == ("ImagerPixelSpacing not used, it is not two numbers above 0: 0,143\\0,143",)


def test_a_compression_that_cannot_be_decoded_is_named(tmp_path):
    film = dataset(grey(4095), syntax=JPEGLosslessSV1)
    film.PixelData = film.PixelData[:60] + bytes(len(film.PixelData) - 60)
    assert "compressed as JPEG Lossless" in refusal(save(film, tmp_path / "film.dcm"))


def test_every_end_of_a_damaged_film_is_plain(tmp_path):
    whole = save(dataset(grey(4095), syntax=ImplicitVRLittleEndian), tmp_path / "whole.dcm").read_bytes()
    path = tmp_path / "film.dcm"
    for end in range(0, len(whole) - 1, 41):
        path.write_bytes(whole[:end])
        refusal(path)


def test_a_wholly_transparent_picture(tmp_path):
    clear = Image.fromarray(grey()).convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "film.png")
    assert "wholly transparent" in refusal(tmp_path / "film.png")
