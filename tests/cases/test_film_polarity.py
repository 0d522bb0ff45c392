"""A film is bright where dense, whatever decoder, table, window or format it came through."""

import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian

from dvg_jax.data.films.read import read_film
from dvg_jax.errors import UserError
from tests.cases.made_dicom import SYNTAXES, brightness, dataset, save, table

TABLES = ("none", "rescaled", "negated", "modality table", "window", "falling VOI table")


def likeness(path, shown=None):
    """Correlate the pixels read with the film's brightness: 1, or -1 for its negative."""
    shown = brightness() if shown is None else shown
    return np.corrcoef(read_film(path).image.ravel(), shown[::-1].ravel())[0, 1]


def film(bits, signed, kind, tables, inverse, syntax):
    """Build a film that shows ``brightness`` after its tables and its polarity."""
    falls = (kind == "MONOCHROME1") ^ (tables in ("negated", "modality table", "falling VOI table"))
    falls = not falls if inverse and kind == "MONOCHROME2" else falls
    low, top = -(2 ** (bits - 1)) if signed else 0, 2**bits - 1
    values = np.rint((1 - brightness() if falls else brightness()) * top) + low
    pixels = values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    tags = {"PhotometricInterpretation": kind} | ({"PresentationLUTShape": "INVERSE"} if inverse else {})
    if tables in ("rescaled", "negated"):
        slope = 2 if tables == "rescaled" else -2
        tags |= {"RescaleSlope": slope, "RescaleIntercept": 100}
        seen = values * slope + 100
        tags |= {"WindowCenter": seen.mean(), "WindowWidth": 2 * np.ptp(seen)}
    elif tables == "window":
        tags |= {"WindowCenter": [values.mean(), 0], "WindowWidth": [2 * np.ptp(values), 1]}
    elif tables.endswith("table"):
        name = "ModalityLUTSequence" if tables == "modality table" else "VOILUTSequence"
        tags[name] = table(np.arange(top + 1)[::-1], low, bits, syntax != ExplicitVRBigEndian)
    return dataset(pixels, bits, syntax, **tags)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_dicom_films_of_every_kind_are_bright_where_dense(tmp_path, syntax, kind):
    wrong = []
    for tables in TABLES:
        for bits, signed in ((8, False), (12, False), (12, True)):
            for inverse in (False, True):
                made = film(bits, signed, kind, tables, inverse, SYNTAXES[syntax])
                if likeness(save(made, tmp_path / "film.dcm")) < 0.999:
                    wrong.append((tables, bits, signed, inverse))
    assert not wrong


def test_a_palette_is_looked_up_before_polarity_is_judged(tmp_path):
    index = np.rint((1 - brightness()) * 255).astype(np.uint8)
    grey = np.arange(256)[::-1].astype("<u2") * 257
    names = ("Red", "Green", "Blue")
    tags = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    tags |= {f"{name}PaletteColorLookupTableData": grey.tobytes() for name in names}
    made = dataset(index, 8, PhotometricInterpretation="PALETTE COLOR", **tags)
    assert likeness(save(made, tmp_path / "film.dcm")) > 0.999
    made.RedPaletteColorLookupTableData = (grey // 4).astype("<u2").tobytes()
    with pytest.raises(UserError, match="colour photo"):
        read_film(save(made, tmp_path / "hot.dcm"))
    del made.BluePaletteColorLookupTableData
    with pytest.raises(UserError, match="palettes cannot be used"):
        read_film(save(made, tmp_path / "cut.dcm"))


def test_raw_films_follow_the_meaning_of_their_values(tmp_path):
    dense_low = np.rint((1 - brightness()) * 4000).astype(np.uint16)
    raw = {"PixelIntensityRelationshipSign": 1, "PresentationIntentType": "FOR PROCESSING"}
    assert likeness(save(dataset(dense_low, **raw), tmp_path / "film.dcm")) > 0.999
    assert not read_film(tmp_path / "film.dcm").facts.warnings
    shown = raw | {"PresentationIntentType": "FOR PRESENTATION"}
    assert likeness(save(dataset(4000 - dense_low, **shown), tmp_path / "film.dcm")) > 0.999
    assert "contradicts" in read_film(tmp_path / "film.dcm").facts.warnings[0]
    counts = np.rint(np.exp(8 * (1 - brightness()))).astype(np.uint16)
    linear = raw | {"PixelIntensityRelationship": "LIN", "PhotometricInterpretation": "MONOCHROME1"}
    assert likeness(save(dataset(counts, **linear), tmp_path / "film.dcm")) > 0.99


def test_values_that_lie_above_bit_zero(tmp_path):
    pixels = np.rint(brightness() * 4000).astype(np.uint16)
    left = dataset(pixels << 4, HighBit=15)
    assert likeness(save(left, tmp_path / "film.dcm")) > 0.999
    assert read_film(tmp_path / "film.dcm").facts.bits == 12


@pytest.mark.parametrize(
    ("window", "applied"),
    [
        ({"WindowCenter": 0, "WindowWidth": 0}, False),
        ({"WindowCenter": 2048, "WindowWidth": 1}, False),
        ({"WindowCenter": 2048, "WindowWidth": -4096}, False),
        ({"WindowCenter": 2048}, False),
        ({"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "CUBIC"}, False),
        ({"WindowCenter": 2048, "WindowWidth": 4096}, True),
        ({"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}, True),
        ({"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "SIGMOID"}, True),
    ],
)
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_that_cannot_be_meant_is_left_out_and_said(tmp_path, window, applied, kind):
    values = brightness() if kind == "MONOCHROME2" else 1 - brightness()
    made = dataset(np.rint(values * 4095).astype(np.uint16), PhotometricInterpretation=kind, **window)
    assert likeness(save(made, tmp_path / "film.dcm")) > 0.99
    facts = read_film(tmp_path / "film.dcm").facts
    assert (facts.window is not None) == applied
    assert any("window not applied" in repair for repair in facts.repairs) == (not applied)


def test_padding_beside_the_picture_is_dark(tmp_path):
    for kind, padding in (("MONOCHROME2", 4095), ("MONOCHROME1", 0)):
        shown = np.pad(brightness((40, 32)), ((0, 0), (8, 8)))
        pixels = np.rint((shown if kind == "MONOCHROME2" else 1 - shown) * 4000 + 40).astype(np.uint16)
        pixels[:, :8] = pixels[:, -8:] = padding
        pixels[20, 30] = padding  # metal inside the picture stays
        made = dataset(pixels, PhotometricInterpretation=kind, PixelPaddingValue=padding)
        image = read_film(save(made, tmp_path / "film.dcm")).image[::-1]
        assert image[:, :8].max() == image[:, -8:].max() == 0
        assert image[20, 30] == 1


def tiff(pixels, order, photometric, form=1):
    """Write a TIFF of one strip by hand: ``photometric`` None omits the tag; ``form`` 1 unsigned, 2 signed, 3 float."""
    rows, columns = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, columns), (257, rows), (258, 8 * pixels.itemsize), (259, 1), (262, photometric), (273, 8), (277, 1),
        (278, rows), (279, len(data)), (339, form),
    ]  # fmt: skip
    entries = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags if value is not None]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0" * 4


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [("u1", 1), ("u2", 1), ("i2", 2), ("i4", 2), ("f4", 3)])
def test_tiffs_in_which_zero_is_white(tmp_path, kind, form, order, white):
    values = (1 - brightness() if white == 0 else brightness()) * (250 if kind == "u1" else 30000)
    path = tmp_path / "film.tif"
    path.write_bytes(tiff(np.rint(values).astype(kind), order, white, form))
    assert likeness(path) > 0.999
    assert read_film(path).facts.repairs == (("inverted: 0 is white (MINISWHITE)",) if white == 0 else ())


def test_a_tiff_that_does_not_say_what_zero_is(tmp_path):
    path = tmp_path / "film.tif"
    path.write_bytes(tiff(np.rint(brightness() * 250).astype(np.uint8), "<", None))
    with pytest.raises(UserError, match="without PhotometricInterpretation"):
        read_film(path)


def test_compressed_and_coloured_tiffs(tmp_path):
    grey = Image.fromarray(np.rint(brightness() * 255).astype(np.uint8))
    deep = Image.fromarray(65535 - np.asarray(grey, np.uint16) * 257)
    for name, picture, options in (
        ("palette", grey.convert("P"), {}),
        ("colour", grey.convert("RGB"), {"compression": "tiff_lzw"}),
        ("white is 0", deep, {"tiffinfo": {262: 0}, "compression": "tiff_lzw"}),
        ("fax", grey.convert("1"), {"tiffinfo": {262: 0}, "compression": "group4"}),
    ):
        picture.save(tmp_path / "film.tif", **options)
        assert likeness(tmp_path / "film.tif") > (0.4 if name == "fax" else 0.999), name
