"""Write the files of a reconstruction, all or none: NIfTI, DICOM, a record of all settings, a page."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dvg_jax.calibration import MAPPED, Calibration
from dvg_jax.config import files_of_run
from dvg_jax.ct.frame import spacing
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.ct.nifti import note_of, save_nifti, save_voxels
from dvg_jax.data.opening import folders_of
from dvg_jax.errors import UserError
from dvg_jax.files import outputs
from dvg_jax.files.atomic import removal_notes, replacing, together
from dvg_jax.fingerprint import VERSION
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.tables import without_nan
from dvg_jax.reconstruct import dicom
from dvg_jax.reconstruct.outcome import Outcome, Request
from dvg_jax.report import SPREAD_NOTE, Layer, Page, error_note, write_page
from dvg_jax.report.cases import build_case, build_films, unseen, with_records

NOTICE = "Synthetic. Not for diagnosis."
SPREAD = ("mean", "std", "unseen")
"""Kinds of files that several samples add next to the output, one of each."""
ERROR = f"error{MAPPED}"
"""A calibrated model adds a file of this kind."""

_UNSEEN_SHARE = 0.005
"""Share of voxels that no ray crosses, above which there is a warning."""
_PICTURE_BYTES, _RECORD_BYTES, _TAG_BYTES = 200_000, 16_384, 8_192
"""Upper bounds in bytes of a picture in the page, of the record, and of a slice's tags."""


def check(request: Request) -> None:
    """Refuse outputs that would replace an input or somebody else's file, or that cannot be written."""
    record, twin = request.sibling(".json"), _twin(request)
    derived = [record, *_siblings(request), *([twin] if twin else [])]
    written = {"--output": [request.output, *derived]}
    if request.report is not None:
        written["--report"] = [request.report]
    read = {"--xray": [xray.path for xray in request.xrays], "--workdir": files_of_run(request.workdir)}
    if request.like is not None:
        read[request.truth_flag] = outputs.files_of(request.like)
    outputs.check_outputs(written, read, {"--dicom": [request.dicom]} if request.dicom else {})
    if (found := _read_record(record)) and "notice" not in found:
        raise UserError(
            f"--output would replace {record}, which is no record of a reconstruction; allowed: another name"
        )


def check_room(request: Request, shape: tuple[int, int, int]) -> None:
    """Refuse, before the model runs, outputs for which the disk has no room; sizes are upper bounds."""
    voxels, many = math.prod(shape), request.samples > 1
    wanted = [("--output", request.output, 2 * voxels), ("--output", request.sibling(".json"), _RECORD_BYTES)]
    wanted.append(("--output", _error_file(request), 4 * voxels))
    if many:
        bytes_each = {"mean": 2, "std": 4, "unseen": 1}
        wanted += [("--output", file, bytes_each[name] * voxels) for name, file in _spread_files(request).items()]
    if request.dicom is not None:
        wanted.append(("--dicom", request.dicom, 2 * voxels + _TAG_BYTES * shape[0]))
    if request.report is not None:
        layers, pictures = 3 + 2 * many + request.compare, 4 * (len(request.xrays) + 1)
        wanted.append(("--report", request.report, layers * 3 * voxels + pictures * _PICTURE_BYTES))
    outputs.check_room(wanted)


def write(request: Request, outcome: Outcome) -> list[str]:
    """Write all files, or none if one fails; return a line about each, and about files of an earlier run."""
    metrics = {}
    if outcome.truth is not None:
        truth = jnp.asarray(outcome.truth)
        metrics = {name: Measures().volume(truth, jnp.asarray(ct)) for name, ct in outcome.results(request).items()}
    settings, twin = _settings(request, outcome), _twin(request)
    left = _left_behind(request)
    with together([*_siblings(request), *([twin] if twin else [])]) as removed:
        lines = list(_write(request, outcome, settings, metrics))
    lines += removal_notes(removed)
    return lines + [f"{path} is of an earlier run, whose {request.output.name} this one has replaced" for path in left]


def _write(
    request: Request, outcome: Outcome, settings: dict[str, Any], metrics: dict[str, dict[str, float]]
) -> Iterator[str]:
    hu = intensity_to_hu(outcome.samples[0])
    note = f"{dicom.NOTICE} dvg_jax {VERSION} seed {request.seed}"
    save_nifti(request.output, hu, outcome.affine, note)
    yield f"{request.output}: {'x'.join(map(str, hu.shape))} voxels, HU {hu.min():.0f} to {hu.max():.0f}"
    yield from _write_spread(request, outcome, note)
    yield from _write_error(request, outcome, note)
    if request.dicom is not None:
        films = [film.request.path for film in outcome.films]
        dicom.save_series(request.dicom, hu, outcome.affine, films, settings)
        yield f"{request.dicom}: DICOM CT series of {len(hu)} slices"
    if request.report is not None:
        write_page(request.report, _page(request, outcome, settings, metrics))
        yield f"{request.report}: page, open it in a browser"
    # The record comes last: by its time a later run recognises which of the others still belong to this one.
    record = request.sibling(".json")
    with replacing(record) as part:
        compared = {name: without_nan(found) for name, found in metrics.items()}
        whole = settings | ({"metrics": compared} if compared else {}) | {"also": _elsewhere(request)}
        part.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    yield f"{record}: settings"


def _write_spread(request: Request, outcome: Outcome, note: str) -> Iterator[str]:
    """Write mean and standard deviation over samples, and the map of voxels that no ray crosses."""
    spread = outcome.spread_hu()
    if spread is None:
        return
    files = _spread_files(request)
    save_nifti(files["mean"], intensity_to_hu(outcome.samples.mean(axis=0)), outcome.affine, note)
    save_voxels(files["std"], spread.astype(np.float32), outcome.affine, note)
    missed = unseen(outcome.angles, outcome.reconstructor.dvg.geometry)
    save_voxels(files["unseen"], missed.astype(np.uint8), outcome.affine, note)
    yield f"{files['mean']}: mean of {request.samples} samples, HU"
    yield f"{files['std']}: their standard deviation, HU, {spread.mean():.0f} on average. {SPREAD_NOTE}"
    yield f"{files['unseen']}: 1 where no ray of the films goes"


def _write_error(request: Request, outcome: Outcome, note: str) -> Iterator[str]:
    """Write the error map, or say why there is none."""
    error, path = outcome.error_hu(), _error_file(request)
    if error is None:
        yield f"no error map: {outcome.calibration}"
        return
    save_voxels(path, error, outcome.affine, note)
    yield f"{path}: {error.mean():.0f} HU on average. {_error_note(outcome)}"


def _error_note(outcome: Outcome) -> str:
    """Explain the error map in the words that page, record and printed lines share."""
    assert isinstance(outcome.calibration, Calibration)
    return error_note(outcome.calibration.facts["cases"], outcome.calibration.facts["kind"])


def _error_file(request: Request) -> Path:
    return request.sibling(f"_{ERROR}.nii.gz")


def _siblings(request: Request) -> list[Path]:
    """Return the files next to the output whose names derive from it, whether or not this run writes them."""
    return [*_spread_files(request).values(), _error_file(request)]


def _spread_files(request: Request) -> dict[str, Path]:
    return {name: request.sibling(f"_{name}.nii.gz") for name in SPREAD}


def _twin(request: Request) -> Path | None:
    """Return ``ct.nii`` for ``ct.nii.gz``, or the reverse, if a reconstruction wrote it: its record is replaced."""
    twin = request.sibling(".nii" if request.output.suffix == ".gz" else ".nii.gz")
    return twin if dicom.NOTICE in (note_of(twin) or "") else None


def _elsewhere(request: Request) -> list[str]:
    """Return the outputs whose names do not derive from the CT's, relative to its folder."""
    named = [path for path in (request.report, request.dicom) if path is not None]
    return [os.path.relpath(path, request.output.parent) for path in named]


def _left_behind(request: Request) -> list[Path]:
    """Return page and series of the replaced run, if they still belong to it and this run does not replace them."""
    record = request.sibling(".json")
    also = (_read_record(record) or {}).get("also")
    names = [name for name in also if isinstance(name, str)] if isinstance(also, list) else []
    paths = [Path(os.path.normpath(request.output.parent / name)) for name in names if name not in _elsewhere(request)]
    return [path for path in paths if path.exists() and path.stat().st_mtime_ns <= record.stat().st_mtime_ns]


def _read_record(path: Path) -> dict[str, Any] | None:
    """Read a JSON object from a file; None where there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _settings(request: Request, outcome: Outcome) -> dict[str, Any]:
    """Return all that decided the result, ready for JSON; every output gets it."""
    model = outcome.reconstructor
    sampler = model.sampler(request.steps, request.sampler)
    return {
        "xrays": [film.framed.record for film in outcome.films],
        "seed": request.seed,
        "samples": request.samples,
        "sampler": sampler.name,
        "steps": sampler.steps or model.dvg.schedule.timesteps,
        "consistency": model.consistency(request.consistency),
        "model": str(request.workdir),
        "model_fingerprint": model.fingerprint,
        "voxel_mm": spacing(outcome.affine),
        "version": VERSION,
        "notice": NOTICE,
        "warnings": _warnings(outcome),
        "error_map": _error_record(outcome),
    } | ({"spread": SPREAD_NOTE} if request.samples > 1 else {})


def _error_record(outcome: Outcome) -> dict[str, Any]:
    """Return what the error map was calibrated on and what it promises, or why there is none."""
    if isinstance(outcome.calibration, str):
        return {"none": outcome.calibration}
    known = ("cases", "kind", "samples", "way")
    return {name: outcome.calibration.facts[name] for name in known} | {"note": _error_note(outcome)}


def _warnings(outcome: Outcome) -> list[str]:
    """List warnings about facts that the result does not show."""
    model = outcome.reconstructor
    warnings = [warning for film in outcome.films for warning in film.framed.warnings]
    if not folders_of(model.config.data.source):
        warnings.append("The model was trained on phantoms, not on patients.")
    for film, trained in zip(outcome.films, model.dvg.angles, strict=False):
        xray = film.request
        if xray.angle != trained and not model.dvg.random_views:
            warnings.append(f"{xray.path.name} is at {xray.angle:g} degrees; the model was trained at {trained:g}.")
    share = float(unseen(outcome.angles, model.dvg.geometry).mean())
    if share > _UNSEEN_SHARE:
        warnings.append(
            f"{100 * share:.0f} % of the volume is crossed by no ray of the films: it is guessed altogether."
        )
    return [*warnings, *outcome.notes]


def _page(request: Request, outcome: Outcome, settings: dict[str, Any], metrics: dict[str, dict[str, float]]) -> Page:
    films, results, dvg = outcome.films, outcome.results(request), outcome.reconstructor.dvg
    views = np.stack([film.framed.image for film in films])[None, ..., None]
    new = outcome.reconstructor.new_view(views[0, ..., 0], outcome.angles)
    if new is not None:
        results["DVG-Net, the first CT"] = np.asarray(dvg.finish(new.ct)[0, ..., 0])
    titles = [f"{film.request.path.name} at {film.request.angle:g} degrees" for film in films]
    shown = with_records(
        build_films(dvg, outcome.angles, titles, jnp.asarray(views), outcome.samples[0]),
        [film.framed.record for film in films],
        [film.original for film in films],
        [film.box for film in films],
    )
    case = build_case(
        "reconstruction",
        dvg,
        outcome.angles,
        shown,
        results,
        outcome.affine,
        outcome.truth,
        None if new is None else new.views,
        _maps(outcome),
        metrics or None,
    )
    title = f"CT from {' and '.join(film.request.path.name for film in films)}"
    own = ("notice", "warnings", "spread", "error_map")
    facts = {name: value for name, value in settings.items() if name not in own}
    return Page(title, (case,), facts, tuple(settings["warnings"]))


def _maps(outcome: Outcome) -> list[Layer]:
    """Return the page's layers that are no CT: spread and error map, where there are any."""
    spread, error = outcome.spread_hu(), outcome.error_hu()
    layers = []
    if spread is not None:
        layers.append(Layer("spread of the samples", spread, "amount", SPREAD_NOTE))
    if error is not None:
        layers.append(Layer(f"error map, {MAPPED} %", error, "amount", _error_note(outcome)))
    return layers
