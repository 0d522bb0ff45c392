"""From X-ray files to result files: NIfTI, DICOM, a record of all settings, a page.

    read and check everything --> model: one sample or K --> files, each whole or not at all

What can be refused is refused before the model runs.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

import dvg_jax
from dvg_jax.data import dicom_out, films_in
from dvg_jax.data.files import replacing
from dvg_jax.data.films import read_film
from dvg_jax.data.frame import FIELD_MM, Affine, HostImage, HostVolume, frame_affine, spacing
from dvg_jax.data.intensity import HU_RANGE, hu_to_intensity, intensity_to_hu
from dvg_jax.data.nifti import save_nifti, save_voxels
from dvg_jax.data.scans import Scan, load_scan
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.metrics import volume_metrics
from dvg_jax.reconstructor import BATCH, Reconstructor, load_reconstructor, sample_keys
from dvg_jax.report import Page, write_page
from dvg_jax.report.cases import build_case, build_films, unseen, with_records

MAX_SAMPLES = 64
NIFTI_SUFFIXES = (".nii", ".nii.gz")
NOTICE = "Synthetic. Not for diagnosis."
_UNSEEN_SHARE = 0.005
"""Of the voxels: what the films do not show is worth a warning from here on."""


@dataclass(frozen=True)
class Request:
    """What is asked for; the flags of ``reconstruct.py`` by the same names.

    Attributes:
      output: the sample of ``seed`` as NIfTI, whatever ``samples`` is; mean, spread and map go beside it.
      like: a prepared CT whose cube the result shares.
      compare: ``like`` is the truth: measure the result beside it.
    """

    workdir: Path
    xrays: tuple[films_in.FilmRequest, ...]
    output: Path
    dicom: Path | None = None
    report: Path | None = None
    seed: int = 0
    samples: int = 1
    batch: int = BATCH
    steps: int | None = None
    sampler: str | None = None
    field_mm: float = FIELD_MM
    like: Path | None = None
    compare: bool = False
    frame: str = "auto"
    intensity: str | None = None
    strict: bool = False

    def beside(self, ending: str) -> Path:
        """A file beside the output: ``ct.nii.gz`` and ``_mean.nii.gz`` give ``ct_mean.nii.gz``."""
        stem = self.output.name.removesuffix(".gz").removesuffix(".nii")
        return self.output.with_name(stem + ending)


@dataclass(frozen=True)
class ReadFilm:
    """A film as it was read, and as it is shown to the model."""

    request: films_in.FilmRequest
    original: HostImage
    framed: films_in.FramedFilm

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """What the framing kept, as :class:`dvg_jax.report.Film` wants it."""
        box = self.framed.record["frame"].get("box")
        if box is None or self.request.flip:
            return None
        return box["top"], box["left"], box["top"] + box["height"], box["left"] + box["width"]


@dataclass(frozen=True)
class Outcome:
    """What the model made of the films: samples in [0, 1], where they lie, and the truth where it is known."""

    reconstructor: Reconstructor
    films: list[ReadFilm]
    samples: Float[np.ndarray, "K D H W"]
    affine: Affine
    truth: HostVolume | None

    def results(self, request: Request) -> dict[str, HostVolume]:
        """The CTs by the names that page and record give them; the sample of the seed first."""
        named = {f"sample of seed {request.seed}": self.samples[0]}
        return named | ({f"mean of {len(self.samples)}": self.samples.mean(axis=0)} if len(self.samples) > 1 else {})

    def spread_hu(self) -> HostVolume | None:
        """Standard deviation over samples (n - 1) in HU; None of a single one."""
        return HU_RANGE * self.samples.std(axis=0, ddof=1) if len(self.samples) > 1 else None


def reconstruct(request: Request) -> list[str]:
    """Do what ``request`` asks; returns a line about each file.

    Raises:
      UserError: a film, folder, CT or checkpoint that cannot be used, before the model runs.
    """
    outcome = _make(request)
    metrics = {}
    if outcome.truth is not None:
        truth = jnp.asarray(outcome.truth)
        metrics = {name: volume_metrics(truth, jnp.asarray(ct)) for name, ct in outcome.results(request).items()}
    settings = _settings(request, outcome)
    hu = intensity_to_hu(outcome.samples[0])
    note = f"{dicom_out.NOTICE} dvg_jax {dvg_jax.__version__} seed {request.seed}"
    save_nifti(request.output, hu, outcome.affine, note)
    shape = "x".join(map(str, hu.shape))
    told = [f"{request.output}: {shape} voxels, HU {hu.min():.0f} to {hu.max():.0f}"]
    told += _write_spread(request, outcome, note)
    if request.dicom is not None:
        films = [film.request.path for film in outcome.films]
        dicom_out.save_series(request.dicom, hu, outcome.affine, films, settings)
        told.append(f"{request.dicom}: DICOM CT series of {len(hu)} slices")
    record = request.beside(".json")
    with replacing(record) as part:
        part.write_text(json.dumps(settings | ({"metrics": metrics} if metrics else {}), indent=2) + "\n")
    told.append(f"{record}: settings")
    if request.report is not None:
        write_page(request.report, _page(request, outcome, settings, metrics))
        told.append(f"{request.report}: page, open it in a browser")
    return told


def _make(request: Request) -> Outcome:
    """Check all that is given, then run the model."""
    pictures = [read_film(xray.path) for xray in request.xrays]
    reconstructor = load_reconstructor(request.workdir)
    geometry = reconstructor.dvg.geometry
    scan = _scan(request, geometry.volume_shape)
    depth, height, width = (request.field_mm / n for n in geometry.volume_shape)
    affine = scan.affine if scan else frame_affine(geometry.volume_shape, (depth, height, width))
    if request.dicom is not None:
        dicom_out.check_series(request.dicom, [xray.path for xray in request.xrays], affine)
    framed = films_in.frame_films(
        pictures, request.xrays, reconstructor, request.frame, request.intensity, request.field_mm, request.strict
    )
    films = [
        ReadFilm(xray, picture.image, film) for xray, picture, film in zip(request.xrays, pictures, framed, strict=True)
    ]
    for warning in (warning for film in framed for warning in film.warnings):
        print(f"warning: {warning}", file=sys.stderr)
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
        )
    truth = np.asarray(hu_to_intensity(scan.hu)) if scan and request.compare else None
    return Outcome(reconstructor, films, samples, affine, truth)


def _scan(request: Request, shape: tuple[int, int, int]) -> Scan | None:
    """The CT whose place the result takes."""
    if request.like is None:
        return None
    scan = load_scan(request.like)
    if request.compare:  # of --like only the place is taken
        scan.checked()
    if scan.hu.shape != shape:
        flag = "truth" if request.compare else "like"
        size = f"with {scan.hu.shape} voxels; allowed: a CT of the model's {shape}"
        raise UserError(f"--{flag} is {request.like}, {size}")
    return scan


def _settings(request: Request, outcome: Outcome) -> dict[str, Any]:
    """All that decided the result, as JSON holds it; goes into every output."""
    model = outcome.reconstructor
    sampler = model.sampler(request.steps, request.sampler)
    return {
        "xrays": [film.framed.record for film in outcome.films],
        "seed": request.seed,
        "samples": request.samples,
        "sampler": sampler.name,
        "steps": sampler.steps or model.dvg.schedule.timesteps,
        "model": str(request.workdir),
        "model_fingerprint": model.fingerprint,
        "voxel_mm": spacing(outcome.affine),
        "version": dvg_jax.__version__,
        "notice": NOTICE,
        "warnings": _warnings(outcome),
    }


def _warnings(outcome: Outcome) -> list[str]:
    """What a reader of the result should know and would not see."""
    model = outcome.reconstructor
    told = [warning for film in outcome.films for warning in film.framed.warnings]
    if model.config.data.source == "phantom":
        told.append("The model was trained on phantoms, not on patients.")
    for film, trained in zip(outcome.films, model.dvg.angles, strict=False):
        xray = film.request
        if xray.angle != trained and not model.dvg.random_views:
            told.append(f"{xray.path.name} is at {xray.angle:g} degrees; the model was trained at {trained:g}.")
    share = float(unseen(_dvg(outcome)).mean())
    if share > _UNSEEN_SHARE:
        told.append(f"{100 * share:.0f} % of the volume is crossed by no ray of the films: it is guessed altogether.")
    return told


def _dvg(outcome: Outcome) -> DVG:
    """The method at the angles of the films."""
    return replace(outcome.reconstructor.dvg, angles=tuple(film.request.angle for film in outcome.films))


def _write_spread(request: Request, outcome: Outcome, note: str) -> list[str]:
    """Mean and standard deviation over samples, and the map of voxels that no ray crosses."""
    spread = outcome.spread_hu()
    if spread is None:
        return []
    files = {name: request.beside(f"_{name}.nii.gz") for name in ("mean", "std", "unseen")}
    save_nifti(files["mean"], intensity_to_hu(outcome.samples.mean(axis=0)), outcome.affine, note)
    save_voxels(files["std"], spread.astype(np.float32), outcome.affine, note)
    save_voxels(files["unseen"], unseen(_dvg(outcome)).astype(np.uint8), outcome.affine, note)
    return [
        f"{files['mean']}: mean of {request.samples} samples, HU",
        f"{files['std']}: their standard deviation, HU, {spread.mean():.0f} on average",
        f"{files['unseen']}: 1 where no ray of the films goes",
    ]


def _page(request: Request, outcome: Outcome, settings: dict[str, Any], metrics: dict[str, dict[str, float]]) -> Page:
    films, results = outcome.films, outcome.results(request)
    views, dvg = np.stack([film.framed.image for film in films])[None, ..., None], _dvg(outcome)
    new = outcome.reconstructor.new_view(views[0, ..., 0], dvg.angles)
    if new is not None:
        results["DVG-Net, the first CT"] = np.asarray(dvg.finish(new.ct)[0, ..., 0])
    titles = [f"{film.request.path.name} at {film.request.angle:g} degrees" for film in films]
    shown = with_records(
        build_films(dvg, titles, jnp.asarray(views), outcome.samples[0]),
        [film.framed.record for film in films],
        [film.original for film in films],
        [film.box for film in films],
    )
    case = build_case(
        "reconstruction",
        dvg,
        shown,
        results,
        outcome.affine,
        outcome.truth,
        None if new is None else new.views,
        outcome.spread_hu(),
        metrics or None,
    )
    title = f"CT from {' and '.join(film.request.path.name for film in films)}"
    facts = {name: value for name, value in settings.items() if name not in ("notice", "warnings")}
    return Page(title, (case,), facts, tuple(settings["warnings"]))
