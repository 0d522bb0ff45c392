"""Imitate a reconstruction without a model: NumPy draws the samples, so that written files are tested quickly."""

from pathlib import Path

import numpy as np

from dvg_jax.calibration import Calibration
from dvg_jax.config.build import build_dvg
from dvg_jax.ct.frame import frame_affine
from dvg_jax.data.films.read import read_film, write_picture
from dvg_jax.reconstruct.films import FilmRequest, FramedFilm
from dvg_jax.reconstruct.outcome import Outcome, ReadFilm, Request
from dvg_jax.reconstruct.reconstructor import Reconstructor
from tests.tiny import get_config

SIDE = 16


def a_film(path: Path, angle: float = 0.0) -> FilmRequest:
    """Write a picture of noise as a film."""
    write_picture(path, np.random.default_rng(0).random((SIDE, SIDE)))
    return FilmRequest(path, angle)


def a_reconstructor() -> Reconstructor:
    """Return a model that has learned nothing."""
    config = get_config()
    return Reconstructor(config, build_dvg(config), {})


def an_outcome(request: Request, seed: int = 0, calibration: Calibration | str = "no reason") -> Outcome:
    """Return an outcome that a model might give for the films of ``request``."""
    samples = np.random.default_rng(seed).random((request.samples, SIDE, SIDE, SIDE)).astype(np.float32)
    films = []
    for xray in request.xrays:
        image = read_film(xray.path).image
        record = {"file": str(xray.path), "angle_deg": xray.angle, "warnings": [], "frame": {}}
        films.append(ReadFilm(xray, image, FramedFilm(image, record)))
    return Outcome(a_reconstructor(), films, samples, frame_affine((SIDE,) * 3, 20.0), None, calibration)
