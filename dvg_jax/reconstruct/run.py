"""Run a reconstruction: X-ray files in, result files out.

    check outputs, read and check inputs --> model: one sample or K --> files, all or none

All possible refusals come before the model runs.
"""

import sys
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from dvg_jax.ct.frame import frame_affine
from dvg_jax.ct.intensity import hu_to_intensity
from dvg_jax.data.films.read import read_film
from dvg_jax.data.scans.read import Scan, load_scan
from dvg_jax.errors import UserError, say
from dvg_jax.reconstruct import dicom
from dvg_jax.reconstruct import films as films_in
from dvg_jax.reconstruct import outputs as results
from dvg_jax.reconstruct.outcome import Outcome, ReadFilm, Request
from dvg_jax.reconstruct.placement import align_films, alignment_mode, with_curves
from dvg_jax.reconstruct.reconstructor import load_reconstructor, sample_keys

__all__ = ["MAX_SAMPLES", "NIFTI_SUFFIXES", "Request", "reconstruct"]

MAX_SAMPLES = 64
NIFTI_SUFFIXES = (".nii", ".nii.gz")


def reconstruct(request: Request) -> list[str]:
    """Reconstruct a CT as ``request`` asks; return a line about each file.

    Raises:
      UserError: a film, folder, CT or checkpoint that cannot be used, or an output that cannot be written, before the
        model runs.
    """
    results.check(request)
    return results.write(request, _make(request))


def _make(request: Request) -> Outcome:
    """Check all inputs, then run the model."""
    pictures = [read_film(xray.path) for xray in request.xrays]
    reconstructor = load_reconstructor(request.workdir)
    reconstructor.as_asked(request.steps, request.sampler, request.consistency, request.samples)
    order = reconstructor.view_order([xray.angle for xray in request.xrays])
    request = replace(request, xrays=tuple(request.xrays[i] for i in order))
    pictures = [pictures[i] for i in order]
    geometry = reconstructor.dvg.geometry
    scan = _scan(request, geometry.volume_shape)
    depth, height, width = (request.field_mm / n for n in geometry.volume_shape)
    affine = scan.affine if scan else frame_affine(geometry.volume_shape, (depth, height, width))
    notes: tuple[str, ...] = ()
    if request.dicom is not None:
        notes = dicom.check_series(request.dicom, [xray.path for xray in request.xrays], affine)
    results.check_room(request, geometry.volume_shape)
    framed = films_in.frame_films(
        pictures, request.xrays, reconstructor, request.frame, request.intensity, request.field_mm, request.strict
    )
    mode = alignment_mode(request.align, request.frame, framed)
    framed = align_films(framed, request.xrays, reconstructor, mode, request.strict, request.consistency)
    told = _tell([*(warning for film in framed for warning in film.warnings), *notes])
    with tqdm(desc="reconstruction", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        samples = reconstructor.samples(
            np.stack([film.image for film in framed]),
            [xray.angle for xray in request.xrays],
            sample_keys(request.seed, request.samples),
            request.steps,
            request.sampler,
            progress,
            request.batch,
            request.consistency,
        )
    framed = with_curves(framed, request.xrays, reconstructor, samples[0])
    _tell([warning for film in framed for warning in film.warnings if warning not in told])
    films = [
        ReadFilm(xray, picture.image, film) for xray, picture, film in zip(request.xrays, pictures, framed, strict=True)
    ]
    truth = np.asarray(hu_to_intensity(scan.hu)) if scan and request.compare else None
    angles = tuple(xray.angle for xray in request.xrays)
    calibration = reconstructor.calibration(angles, request.steps, request.sampler, request.consistency)
    return Outcome(reconstructor, films, samples, affine, truth, calibration, notes)


def _tell(warnings: list[str]) -> list[str]:
    """Print warnings on stderr, and return them."""
    for warning in warnings:
        say(f"warning: {warning}", sys.stderr)
    return warnings


def _scan(request: Request, shape: tuple[int, int, int]) -> Scan | None:
    """Return the CT whose place the result takes, if there is one."""
    if request.like is None:
        return None
    scan = load_scan(request.like)
    if request.compare:  # --like gives only the place
        scan.checked()
    if scan.hu.shape != shape:
        size = f"with {scan.hu.shape} voxels; allowed: a CT of the model's {shape}"
        raise UserError(f"{request.truth_flag} is {request.like}, {size}")
    return scan.checked() if request.compare else scan
