"""Framed films are aligned unless they are the model's own views, and what is far from nominal is said."""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax.alignment import Alignment
from dvg_jax.errors import UserError
from dvg_jax.film_curve import FilmCurve
from dvg_jax.reconstruct.films import FilmRequest, FramedFilm
from dvg_jax.reconstruct.placement import align_films, alignment_mode, with_curves
from dvg_jax.reconstruct.reconstructor import Reconstructor
from dvg_jax.xray.placement import Placement

REQUESTS = [FilmRequest(Path("ap.png"), 0.0), FilmRequest(Path("lat.png"), 90.0)]


def film(rendered=None):
    return FramedFilm(np.zeros((4, 4), np.float32), {"facts": {"rendered": rendered}, "warnings": []})


@dataclass
class Found(Reconstructor):
    """Stand for a model that finds these numbers about the second film, and this curve of both."""

    height_mm: float = 0.0
    scale: float = 0.0
    likeness: float = 0.9
    curve: tuple = (2.0, 2.5, 4.0, 5.5, 6.0)

    def align(self, images, angles, mode, consistency=None):
        self.seen = images
        zero = jnp.zeros((1, 2))
        place = Placement(jnp.array([[0.0, self.height_mm]]), jnp.array([[-self.scale, self.scale]]) / 2, zero, zero)
        likeness = jnp.array([[1.0, self.likeness]])
        return Alignment(jnp.ones((1, *images.shape, 1)), place, likeness, FilmCurve.straight(1, 2))

    def curves(self, ct, images, angles):
        return FilmCurve(jnp.tile(jnp.linspace(0.1, 0.9, 5), (1, 2, 1)), jnp.tile(jnp.array(self.curve), (1, 2, 1)))


def aligned(found, **how):
    return align_films([film(), film()], REQUESTS, found, "model", **how)


def test_the_models_own_views_are_left_alone():
    rendered, real = film({"angle_deg": 0.0}), film()
    assert alignment_mode("auto", "auto", [rendered, rendered]) == "none"
    assert alignment_mode("auto", "auto", [rendered, real]) == "model"
    assert alignment_mode("auto", "none", [real, real]) == "none"
    assert alignment_mode("rows", "none", [rendered, rendered]) == "rows"
    films = [rendered, rendered]
    assert align_films(films, REQUESTS, Found(), "none") == films


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Found(height_mm=12.0, scale=0.04), []),
        (Found(height_mm=43.0), ["lat.png: shows the patient -43 mm from where ap.png does; it was moved there"]),
        (Found(scale=-0.14), [f"{name}: shows the patient {x} % larger than the films' mean; it was resized"
                              for name, x in (("ap.png", "+7"), ("lat.png", "-7"))]),
        (Found(likeness=0.3), ["lat.png: rows are unlike those of ap.png (likeness 0.30); its height is not reliable"]),
    ],
)  # fmt: skip
def test_what_is_far_from_the_nominal_view_is_said(found, said):
    films = aligned(found)
    assert [warning for one in films for warning in one.warnings] == said
    assert films[1].record["alignment"]["height_mm"] == pytest.approx(found.height_mm)
    assert (films[0].image == 1).all()
    if said:
        with pytest.raises(UserError, match="strict"):
            aligned(found, strict=True)


def test_curves_are_recorded_and_one_that_falls_is_said():
    straight, falling = (
        with_curves(aligned(f), REQUESTS, f, np.zeros((4, 4, 4)))
        for f in (Found(), Found(curve=(0.0, 0.5, 1.0, 1.4, 1.0)))
    )
    assert straight[0].record["curve"] == {"from": [0.1, 0.3, 0.5, 0.7, 0.9], "to": [0.0, 0.125, 0.5, 0.875, 1.0]}
    assert straight[0].warnings == []
    assert "only by a curve that falls" in falling[1].warnings[0]


def test_a_film_is_moved_with_its_margin():
    wide = FramedFilm(np.ones((16, 16), np.float32), {"facts": {"rendered": None}, "warnings": []}, np.ones((20, 20)))
    view = FramedFilm(np.eye(16, dtype=np.float32), {"facts": {"rendered": {}}, "warnings": []})
    found = Found()
    align_films([wide, view], REQUESTS, found, "model")
    assert found.seen.shape == (2, 20, 20)
    np.testing.assert_array_equal(found.seen[1], np.pad(view.image, 2, mode="edge"))
