"""Define the request for a reconstruction, and its outcome."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dvg_jax.calibration import Calibration, ray_support
from dvg_jax.ct.frame import FIELD_MM, Affine, HostImage, HostVolume
from dvg_jax.ct.intensity import HU_RANGE, intensity_to_hu
from dvg_jax.finite import finite
from dvg_jax.reconstruct import films as films_in
from dvg_jax.reconstruct.reconstructor import BATCH, Reconstructor


@dataclass(frozen=True)
class Request:
    """Hold the settings of a reconstruction: the flags of ``reconstruct.py`` by the same names.

    Attributes:
      output: NIfTI to write, the sample of ``seed``; mean, spread and map of several samples go into its folder.
      like: a prepared CT whose cube the result shares.
      compare: True if ``like`` is the truth, with which the result is compared.
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
    consistency: str | None = None
    field_mm: float = FIELD_MM
    like: Path | None = None
    compare: bool = False
    frame: str = "auto"
    intensity: str | None = None
    align: str = "auto"
    strict: bool = False

    @property
    def truth_flag(self) -> str:
        """Return the flag that gave ``like``."""
        return "--truth" if self.compare else "--like"

    def sibling(self, ending: str) -> Path:
        """Return a path in the output's folder: ``ct.nii.gz`` and ``_mean.nii.gz`` give ``ct_mean.nii.gz``."""
        stem = self.output.name.removesuffix(".gz").removesuffix(".nii")
        return self.output.with_name(stem + ending)


@dataclass(frozen=True)
class ReadFilm:
    """Hold a film as it was read, and as the model sees it."""

    request: films_in.FilmRequest
    original: HostImage
    framed: films_in.FramedFilm

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Return the part of the film inside the frame, as in :class:`dvg_jax.report.Film`, or None."""
        box = self.framed.record["frame"].get("box")
        if box is None or self.request.flip:
            return None
        return box["top"], box["left"], box["top"] + box["height"], box["left"] + box["width"]


@dataclass(frozen=True)
class Outcome:
    """Hold the model's result for the films.

    Attributes:
      reconstructor: the model.
      films: films as read and as framed.
      samples: CTs (K, D, H, W) in [0, 1].
      affine: ``(d, h, w)`` to RAS mm.
      truth: reference CT (D, H, W) in [0, 1], or None.
      calibration: of results made in this way, or why there is none.
      notes: warnings about outputs; warnings about films are in their records.
    """

    reconstructor: Reconstructor
    films: list[ReadFilm]
    samples: Float[np.ndarray, "K D H W"]
    affine: Affine
    truth: HostVolume | None
    calibration: Calibration | str
    notes: tuple[str, ...] = ()

    @property
    def angles(self) -> tuple[float, ...]:
        """Return the angles of the films in degrees."""
        return tuple(film.request.angle for film in self.films)

    def results(self, request: Request) -> dict[str, HostVolume]:
        """Return the CTs by their names in page and record; the sample of the seed first."""
        named = {f"sample of seed {request.seed}": self.samples[0]}
        return named | ({f"mean of {len(self.samples)}": self.samples.mean(axis=0)} if len(self.samples) > 1 else {})

    def spread_hu(self) -> HostVolume | None:
        """Return the standard deviation over samples (n - 1) in HU; None for a single sample."""
        return HU_RANGE * self.samples.std(axis=0, ddof=1) if len(self.samples) > 1 else None

    def error_hu(self) -> HostVolume | None:
        """Return the error map of the first sample in HU; None where the model is not calibrated for it."""
        if isinstance(self.calibration, str):
            return None
        support = ray_support(self.angles, self.reconstructor.dvg.geometry)
        error = self.calibration.error_map(intensity_to_hu(self.samples[0]), support, self.spread_hu())
        return finite("the error map", error)
