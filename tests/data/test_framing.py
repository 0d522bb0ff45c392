"""Films are brought to where training views show the thorax; what was done is said."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.data.films.greys import match_greys, without_marks
from dvg_jax.data.films.read import Film, FilmFacts, fit_film, read_film, resized, write_picture
from dvg_jax.data.films.search import blurred, crop_square, trim_borders
from dvg_jax.data.films.template import LEVELS, Greys, field_share, thorax_template
from dvg_jax.reconstruct.films import FilmRequest, frame_film
from dvg_jax.xray import ConeBeamGeometry
from tests.data.made_films import ANGLES, phantom_views
from tests.paths import SHARED, needs_shared

GEOMETRY = ConeBeamGeometry.covering(32)
CASES = (0, 1, 2)
FACTS = FilmFacts("film.png", "PNG", 128, 128, 8, "L")


def framed(image, angle, frame="auto", facts=FACTS, flip=False, geometry=GEOMETRY, greys=None):
    return frame_film(
        Film(image.astype(np.float32), facts), FilmRequest("film.png", angle, flip), geometry, frame, greys
    )


def disturbed(view, case):
    """As a film might be: another curve, off centre, a letter, a letterbox."""
    top, bottom, left, right = np.random.default_rng(case).integers(10, 45, 4)
    film = np.pad(view**0.5, ((bottom, top), (left, right)), mode="edge")
    film[-20:-10, -15:-13] = film[-20:-18, -15:-9] = 1
    return np.pad(film, ((0, 0), (15, 30)))


def likeness(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize("place", range(2))
def test_disturbed_films_come_back_to_their_place(place):
    angle, automatic, centred = ANGLES[place], [], []
    for case in CASES:
        view = phantom_views(case)[place]
        truth = fit_film(view, GEOMETRY.detector_shape)
        found = framed(disturbed(view, case), angle)
        top, _, left, _ = np.random.default_rng(case).integers(10, 45, 4)
        box = found.record["frame"]["box"]
        # 1 pixel is 2.7 mm. Lungs lie up to 15 mm from where they do on average, and differ in size by 20 %.
        assert box["top"] + box["height"] / 2 == pytest.approx(top + 64, abs=8)
        assert box["left"] + box["width"] / 2 == pytest.approx(15 + left + 64, abs=8)
        assert box["width"] == pytest.approx(128, rel=0.15)
        automatic.append(likeness(found.image, truth))
        centred.append(likeness(framed(disturbed(view, case), angle, "none").image, truth))
    # Measured 0.65 to 0.98, mean 0.87; the centre crop leaves 0.33 to 0.53.
    assert min(automatic) > 0.6
    assert np.mean(automatic) > np.mean(centred) + 0.3


@pytest.mark.parametrize("place", range(2))
def test_a_view_that_is_framed_already_stays(place):
    view = phantom_views(0)[place]
    found = framed(view, ANGLES[place])
    assert "left as it is" in found.record["frame"]["method"]
    assert likeness(found.image, fit_film(view, GEOMETRY.detector_shape)) > 0.97
    assert not found.warnings


def test_a_framed_film_keeps_a_margin_of_what_is_around_it():
    """It is no repetition of the view's edge; a view that is all of its film has none."""
    view = phantom_views(0)[0]
    film = np.pad(view, 16, mode="edge")
    film[:8, 40:120] = film[-8:, 40:120] = 0.5
    greys = Greys(np.ones((32, 32), np.float32), np.array([0.1, 0.4, 0.9]), 16, "phantom")
    found = framed(film, ANGLES[0], greys=greys)
    assert found.wide.shape == (40, 40)
    inner = found.wide[4:-4, 4:-4]
    np.testing.assert_allclose(found.image, (inner - inner.min()) / np.ptp(inner), atol=1e-6)
    repeated = np.pad(inner, 4, mode="edge")
    assert np.abs(found.wide - repeated)[[0, -1], 12:28].min() > 0.1
    assert framed(view, ANGLES[0], "none").wide is None


def test_rendered_films_are_not_framed(tmp_path):
    view = phantom_views(1)[0]
    told = {"angle_deg": 0.0, "field_share": field_share(GEOMETRY)[1]}
    write_picture(tmp_path / "xray.png", view, 16, told)
    film = read_film(tmp_path / "xray.png")
    found = frame_film(film, FilmRequest(tmp_path / "xray.png", 0.0), GEOMETRY)
    np.testing.assert_allclose(found.image, fit_film(view, GEOMETRY.detector_shape), atol=1e-4)
    assert found.record["repairs"] == ["rendered by dvg_jax, not framed"]
    elsewhere = frame_film(film, FilmRequest(tmp_path / "xray.png", 90.0), ConeBeamGeometry.paper(32))
    assert [w.split(": ")[1][:12] for w in elsewhere.warnings] == ["rendered for", "rendered at "]


def test_readings_of_a_film_that_are_not_as_given():
    frontal, lateral = phantom_views(2)
    assert "are the views swapped?" in framed(disturbed(frontal, 1), 90.0).warnings[0]
    assert "are the views swapped?" in framed(disturbed(lateral, 1), 0.0).warnings[0]
    mirrored = framed(disturbed(lateral[:, ::-1], 1), 90.0)
    assert "looks mirrored" in mirrored.warnings[0]
    assert not framed(disturbed(lateral[:, ::-1], 1)[:, ::-1], 90.0).warnings
    # What the warning advises does away with it.
    film = disturbed(lateral[:, ::-1], 1)
    assert not framed(film, 90.0, flip=True).warnings
    negative = framed(1 - disturbed(frontal, 1), 0.0)
    assert any("negative" in repair for repair in negative.record["repairs"])
    assert likeness(negative.image, framed(disturbed(frontal, 1), 0.0).image) > 0.95


def test_what_is_no_chest_is_said():
    for image in (np.random.default_rng(0).random((128, 128)), np.hypot(*(np.mgrid[:128, :100] - 60)) / 100):
        found = framed(image, 0.0)
        assert "no thorax found" in found.warnings[0]
        assert found.record["frame"]["method"] == "centre, no thorax found"


def test_scale_by_tags_if_it_is_believable():
    view = phantom_views(0)[0]
    film = np.pad(view, 30, mode="edge")
    pixel = field_share(GEOMETRY)[0] * FIELD_MM / len(view)
    facts = replace(FACTS, pixel_mm=(1.25 * pixel,) * 2, magnification=1.25)
    found = framed(film, 0.0, facts=facts)
    assert found.record["frame"]["box"]["width"] == pytest.approx(len(view), rel=0.01)
    assert found.record["frame"]["scale_from"] == "pixel spacing, magnification 1.250"
    wrong = framed(film, 0.0, facts=replace(FACTS, pixel_mm=(pixel / 3,) * 2))
    assert "it was not used" in wrong.warnings[0]
    view_tag = framed(film, 0.0, facts=replace(FACTS, view="LL"))
    assert "ViewPosition is LL" in view_tag.warnings[0]


def test_the_record_is_json_and_its_box_is_where_the_thorax_is():
    view = phantom_views(0)[0]
    film = np.pad(view, ((10, 60), (40, 20)), mode="edge")
    found = framed(film, 0.0)
    box = json.loads(json.dumps(found.record))["frame"]["box"]
    # The top of the file is the head end, where 60 rows were added.
    assert box["top"] + box["height"] / 2 == pytest.approx(60 + 64, abs=10)
    assert box["left"] + box["width"] / 2 == pytest.approx(40 + 64, abs=6)
    assert box["width"] == pytest.approx(128, rel=0.12)


def test_borders_are_peeled_frame_by_frame():
    inner = blurred(np.random.default_rng(0).random((40, 30)), 2.0)
    film = np.pad(np.pad(inner, 5), ((3, 9), (2, 0)), constant_values=inner.max() * 1.1)
    rows, columns = trim_borders(film)
    np.testing.assert_array_equal(film[rows, columns], inner)


def test_a_box_beyond_the_film_says_how_much():
    crop, outside = crop_square(np.ones((20, 20), np.float32), (10.0, 20.0), (20.0, 20.0), (20, 20))
    assert outside == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(crop, 1)
    _, air = crop_square(np.zeros((20, 20), np.float32), (10.0, 20.0), (20.0, 20.0), (20, 20))
    assert air == 0


def test_marks_go_and_the_chest_stays():
    ground = resized(phantom_views(0)[0], (256, 256)) * 0.6
    film = ground.copy()
    film[225:245, 12:15] = film[225:228, 12:24] = 1
    chest = np.zeros((256, 256), bool)
    chest[20:210, 30:226] = True
    clean, count = without_marks(film, chest, 256)
    assert count == 1
    assert np.abs(clean - ground).max() < 0.1
    np.testing.assert_array_equal(clean[chest], film[chest])


def test_matching_is_monotone_and_gives_the_levels():
    values = np.sort(np.random.default_rng(0).random(32 * 32)).astype(np.float32)
    greys = Greys(np.ones((32, 32), np.float32), np.linspace(0.2, 0.9, len(LEVELS)) ** 2, 16, "phantom")
    matched, _ = match_greys((values**3).reshape(32, 32), greys)
    assert (np.diff(matched.ravel()) >= 0).all()
    np.testing.assert_allclose(np.quantile(matched, LEVELS), greys.quantiles, atol=0.01)
    again, _ = match_greys(matched, greys)
    np.testing.assert_allclose(again, matched, atol=0.01)


def test_the_template_shows_lungs_where_the_cube_has_them():
    layers, field = thorax_template(0.0)
    assert field == pytest.approx(1.068, abs=0.01)
    lungs = -layers[1].picture
    rows, columns = np.nonzero(lungs > 0.5)
    assert rows.mean() == pytest.approx(32, abs=5)
    assert columns.mean() == pytest.approx(31.5, abs=2)
    assert sum(layer.share for layer in layers) == pytest.approx(1)


@needs_shared
@pytest.mark.parametrize("name", [path.stem for path in sorted((SHARED / "xray").glob("*_pa.png"))])
def test_real_frontal_films_are_found_and_read_as_frontal(name):
    film = read_film(SHARED / "xray" / f"{name}.png")
    found = frame_film(film, FilmRequest(name, 0.0), GEOMETRY).record
    assert found["frame"]["method"].startswith("thorax found")
    assert not [w for w in found["warnings"] if "swapped" in w or "mirrored" in w]


@needs_shared
def test_the_real_lateral_film_faces_right_and_is_said_to():
    film = read_film(SHARED / "xray" / "openi_iu_2_lat.png")
    assert "looks mirrored" in frame_film(film, FilmRequest("lat", 90.0), GEOMETRY).warnings[0]
    assert not frame_film(film, FilmRequest("lat", 90.0, True), GEOMETRY).warnings


@needs_shared
def test_the_real_dicom_is_found_and_its_spacing_is_not_believed():
    path = next((SHARED / "dicom" / "xray").glob("*.dcm"))
    found = frame_film(read_film(path), FilmRequest(path, 0.0), GEOMETRY)
    assert found.record["facts"]["view"] == "PA"
    assert found.record["frame"]["method"].startswith("thorax found")
    assert "pixel spacing 0.168 mm" in found.warnings[0]
