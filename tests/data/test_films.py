"""Films in and pictures out: the head is at the top of every file and at the end of every array."""

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dvg_jax.data.films.read import fit_film, read_film, write_picture
from dvg_jax.errors import UserError


def ramp(shape=(40, 30)):
    """Dark at the foot end (row 0), bright at the head end."""
    return np.broadcast_to(np.linspace(0, 1, shape[0], dtype=np.float32)[:, None], shape).copy()


def test_the_head_is_at_the_top_of_a_picture(tmp_path):
    write_picture(tmp_path / "film.png", ramp())
    stored = np.asarray(Image.open(tmp_path / "film.png"))
    assert stored[0, 0] == 255
    assert stored[-1, 0] == 0
    np.testing.assert_allclose(read_film(tmp_path / "film.png").image, ramp(), atol=1 / 255)


@pytest.mark.parametrize("name", ["film.png", "film.jpg", "film.tif"])
def test_formats_agree(tmp_path, name):
    picture = (ramp()[::-1] * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / name)
    np.testing.assert_allclose(read_film(tmp_path / name).image, ramp(), atol=0.02)


def test_sixteen_bits_and_colour(tmp_path):
    deep = (ramp()[::-1] * 60000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_film(tmp_path / "deep.png").image, ramp(), atol=1e-4)
    grey = (ramp()[::-1] * 255).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "colour.png")
    np.testing.assert_allclose(read_film(tmp_path / "colour.png").image, ramp(), atol=0.01)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_films_are_bright_where_dense(tmp_path, kind):
    path = tmp_path / "film.dcm"
    pixels = (ramp()[::-1] * 4000).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = meta.MediaStorageSOPClassUID, generate_uid(), "DX"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.PhotometricInterpretation = kind
    data.PixelData = (4000 - pixels if kind == "MONOCHROME1" else pixels).tobytes()
    data.save_as(path, enforce_file_format=True)
    np.testing.assert_allclose(read_film(path).image, ramp(), atol=1e-3)


def test_fitting_crops_the_centre_and_keeps_proportions():
    film = np.zeros((100, 60), np.float32)
    film[40:60, 20:40] = 1
    fitted = fit_film(film, (30, 30))
    assert fitted.shape == (30, 30)
    rows, columns = np.nonzero(fitted > 0.5)
    assert (np.ptp(rows), np.ptp(columns)) == (9, 9)
    assert rows.mean() == columns.mean() == 14.5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("absent.png", None, "no such film"), ("words.png", b"not a picture", "not a picture")],
)
def test_what_is_no_film_is_refused_by_name(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        read_film(tmp_path / name)
    assert name in str(refused.value)


def test_flat_and_tiny_films_are_refused(tmp_path):
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / "flat.png")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "tiny.png")
    with pytest.raises(UserError, match=r"flat\.png"):
        read_film(tmp_path / "flat.png")
    with pytest.raises(UserError, match="at least 16 pixels"):
        read_film(tmp_path / "tiny.png")
