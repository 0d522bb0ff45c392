"""Measure methods on films with one imperfection at a time: what it costs, and what alignment wins back.

The films of every case have the imperfection at its full size, with a drawn sign; of "all" each is drawn up to its
bound. Where the patient stands elsewhere the truth is moved along, and the row says what a truth that stays would give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dvg_jax.cli.rules import Number, shown
from dvg_jax.config.table import rules
from dvg_jax.ct.frame import FIELD_MM
from dvg_jax.data.sources import Example, Source
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import Cases, Procedure
from dvg_jax.evaluate.measure import measure
from dvg_jax.imperfections import Imperfections
from dvg_jax.keys import named
from dvg_jax.methods.base import Method
from dvg_jax.metrics import psnr_volume
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.tables import Row
from dvg_jax.shapes import Key, VariablesByStage, Views, Volume
from dvg_jax.xray.resample import interpolated
from dvg_jax.xray.views import table_of

SHIFT = "shift_mm"
"""This moves the patient along each axis; it is no fault of a film, so the truth is moved along."""

NAMES = (SHIFT, *(field.name for field in fields(Imperfections)))

LIMITS = {SHIFT: Number(0, FIELD_MM / 2)} | {name: rules()[f"films.{name}"] for name in NAMES[1:]}
"""Half the field is the farthest that a patient may stand; films keep the bounds of those in training."""

ALL = {SHIFT: 15.0, "height_mm": 10.0, "scale": 0.03, "rotation_deg": 2.0, "curve": 0.35, "noise": 0.01}
"""Under the name "all" these are drawn together, each up to its bound."""

STANDARD = (
    "none:0,shift_mm:5,shift_mm:10,shift_mm:20,height_mm:2,height_mm:5,height_mm:10,height_mm:20,scale:0.01,scale:0.03,"
    "scale:0.06,rotation_deg:1,rotation_deg:3,distance:0.2,curve:0.2,curve:0.4,noise:0.01,noise:0.04,letters:1,"
    "collimation:0.05,all:1"
)
"""These trials are meant by ``config.evaluate.stress=standard``."""


@dataclass(frozen=True)
class Trial:
    """Say what is wrong with films.

    Attributes:
      name: of the imperfection: "none", "all", or one of ``NAMES``.
      size: of it, in its own unit; of "all" in parts of ``ALL``.
    """

    name: str
    size: float

    @property
    def bounds(self) -> dict[str, float]:
        """Return the size of each imperfection."""
        if self.name == "all":
            return {name: self.size * bound for name, bound in ALL.items()}
        return {} if self.name == "none" else {self.name: self.size}

    @property
    def imperfections(self) -> Imperfections:
        """Return what is wrong with the films themselves."""
        return Imperfections(**{name: size for name, size in self.bounds.items() if name != SHIFT})

    @property
    def shift_mm(self) -> float:
        """Return how far the patient may stand from the middle along each axis."""
        return self.bounds.get(SHIFT, 0.0)

    def films(self, dvg: DVG, cases: Cases) -> Views:
        """Return the films of a batch, (B, V, h, w, 1), [0, 1]."""
        key, angles = named(cases.key, f"{self.name} {self.size}"), table_of(dvg.angles, len(cases.truth))
        faults = self.imperfections.draw(key, len(angles), angles.shape[1], whole=self.name != "all")
        return self.imperfections.films_of(cases.truth, angles, faults, key, dvg.geometry)


def trials_of(text: str) -> list[Trial]:
    """Read ``NAME:SIZE,NAME:SIZE``, or ``standard``. Raises UserError for anything else."""
    trials = []
    for word in (STANDARD if text == "standard" else text).split(","):
        name, _, size = word.partition(":")
        try:
            trials.append(Trial(name.strip(), float(size)))
        except ValueError:
            raise _refused(word) from None
        if trials[-1].name not in ("none", "all", *NAMES) or not 0 <= trials[-1].size < np.inf:
            raise _refused(word)
        for fault, bound in trials[-1].bounds.items():
            if not (rule := LIMITS[fault]).holds(bound):
                raise UserError(f"config.evaluate.stress has {shown(word)}, {fault} {bound:g}; allowed: {rule.allowed}")
    return trials


def _refused(word: str) -> UserError:
    return UserError(
        f"config.evaluate.stress has {shown(word)}; allowed: standard, or NAME:SIZE of {', '.join(NAMES)}, none and all"
    )


class Moved:
    """Move the CTs of a source, each in a drawn direction, as patients stand elsewhere."""

    def __init__(self, source: Source, trial: Trial, seed: int) -> None:
        self.source, self.trial, self._key = source, trial, named(jax.random.key(seed), "place")
        self.patients = getattr(source, "patients", None)

    @property
    def identity(self) -> str:
        return f"{self.source.identity}, moved by up to {self.trial.shift_mm} mm"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if not self.trial.shift_mm:
            return example
        mm = place_of(self.trial, jax.random.fold_in(self._key, index))
        return example | {"ct": np.asarray(moved(jnp.asarray(example["ct"])[..., 0], mm))[..., None]}


def place_of(trial: Trial, key: Key) -> jax.Array:
    """Draw where a patient stands, (3,) along D, H, W in mm: at the size with drawn signs, of "all" up to it."""
    share = jax.random.uniform(key, (3,), minval=-1, maxval=1)
    return trial.shift_mm * (share if trial.name == "all" else jnp.sign(share))


@jax.jit
def moved(ct: Volume, mm: jax.Array) -> Volume:
    """Move a patient by so many mm along D, H, W; beyond the cube the outermost voxels go on."""
    voxels = mm * len(ct) / FIELD_MM
    places = jnp.ix_(*(jnp.arange(n) - by for n, by in zip(ct.shape, voxels, strict=True)))
    return interpolated(ct, places)


def stress(
    trials: Sequence[Trial],
    methods: Sequence[Method],
    variables: VariablesByStage,
    dvg: DVG,
    source: Source,
    procedure: Procedure,
    straighten: Callable[[Views, Key], Views],
    show_progress: bool,
) -> dict[str, list[Row]]:
    """Return rows by imperfection and method, one a case: PSNR and SSIM of films as given, and after alignment.

    Args:
      trials: what is tried.
      methods: those that make no CTs, or see the truth, are left out.
      variables: by stage, those that the methods require.
      dvg: with the views that methods see.
      source: of the cases.
      procedure: how they are measured; by PSNR and SSIM alone.
      straighten: films and key -> films at their nominal views.
      show_progress: draw a bar on stderr.
    """
    procedure = replace(procedure, measures=Measures(("hu",), "", "unit"))
    methods = [method for method in methods if not method.sees_truth]
    found: dict[str, list[Row]] = {}
    for trial in tqdm(trials, desc=f"{'stress':>15}", disable=not show_progress, dynamic_ncols=True):

        def given(cases: Cases, trial: Trial = trial) -> Views:
            return trial.films(dvg, cases)

        def after(cases: Cases, trial: Trial = trial) -> Views:
            return straighten(trial.films(dvg, cases), cases.key)

        patients = Moved(source, trial, procedure.seed)
        passes = (measure(methods, variables, dvg, patients, procedure, films=films) for films in (given, after))
        for as_given, aligned in zip(*passes, strict=True):
            unmoved = [np.asarray(source[i]["ct"])[..., 0] for i in as_given.cases.numbers]
            for title in as_given.volumes:
                for i, label in enumerate(as_given.cases.labels):
                    row = dict(label)
                    for when, batch in (("before", as_given), ("after", aligned)):
                        row |= {f"{figure}_{when}": batch.volumes[title][i][figure] for figure in ("psnr", "ssim")}
                        still = psnr_volume(jnp.asarray(unmoved[i]), batch.predictions[title].ct[i, ..., 0])
                        row[f"psnr_{when}_unmoved"] = float(still)
                    row["psnr_gained"] = row["psnr_after"] - row["psnr_before"]
                    found.setdefault(f"{trial.name} {trial.size:g}: {title}", []).append(row)
    return found
