"""Measure a run on cases it was not trained on, and keep what was measured."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dvg_jax.config.build import build_dvg
from dvg_jax.data.sources import Source
from dvg_jax.devices import full_precision
from dvg_jax.dvg import DVG
from dvg_jax.evaluate.cases import Procedure
from dvg_jax.evaluate.measure import Measured, measure
from dvg_jax.experiments.catalogue import rows_of
from dvg_jax.experiments.plan import Job, Run, degrees, rows_named
from dvg_jax.files.atomic import replacing, together
from dvg_jax.methods import build_method
from dvg_jax.methods.base import CODEC, Method
from dvg_jax.metrics.tables import without_nan
from dvg_jax.shapes import VariablesByStage
from dvg_jax.training.workdir import load_stages

Result = dict[str, Any]


@dataclass(frozen=True)
class CaseSet:
    """Name a set of cases; tables and files use the name."""

    name: str
    source: Source


@dataclass(frozen=True)
class Subject:
    """Hold what is measured: a method and its learned variables.

    Attributes:
      targets: degrees of the X-rays that are measured too.
      trained: by job, how many CTs it was shown.
    """

    name: str
    method: Method
    dvg: DVG
    variables: VariablesByStage
    targets: tuple[float, ...]
    trained: dict[str, int]

    @property
    def parameters(self) -> int:
        """Count the learned parameters; a method that sees the truth counts none."""
        if self.method.sees_truth:
            return 0
        return sum(leaf.size for stage in self.variables.values() for leaf in jax.tree.leaves(stage["params"]))


def trained_run(run: Run, folder: Path) -> Subject:
    """Load a run whose jobs are finished in ``folder``."""
    return _subject(run.name, run.method, run.config, folder, targets_of(run), run.volumes)


def yardstick_name(title: str, angles: tuple[float, ...]) -> str:
    """Return the name of the measurements of a yardstick with X-rays at these angles."""
    return f"{title}@{degrees(angles)}"


def yardstick_of(title: str, angles: tuple[float, ...], base: ConfigDict) -> Subject:
    """Make a subject of a yardstick that is given X-rays at these angles."""
    config = base.copy_and_resolve_references()
    config.angles, config.new_angles, config.random_views = angles, (), 0
    return _subject(yardstick_name(title, angles), title, config, Path(), (), {})


def codec_of(job: Job, folder: Path) -> Subject:
    """Make a subject of the trained CT VQGAN's reconstruction of the truth itself."""
    return _subject(CODEC, "ct_codec", job.config, folder / job.name, (), {job.name: job.volumes})


def _subject(
    name: str, method: str, config: ConfigDict, folder: Path, targets: tuple[float, ...], trained: dict[str, int]
) -> Subject:
    dvg = build_dvg(config)
    built = build_method(method, config, dvg)
    variables = jax.device_put(load_stages(config, folder, built.requires, wanted_by=name))
    return Subject(name, built, dvg, variables, targets, trained)


def result_path(folder: Path, subject: str, test: str) -> Path:
    """Return the path of a stored measurement; the volumes for pictures are next to it as ``.npz``."""
    return folder / subject.replace(" ", "_") / f"{test.replace(' ', '_')}.json"


def read_result(path: Path, trained: dict[str, int], procedure: Procedure) -> Result | None:
    """Read a stored measurement; None where it is absent or belongs to another procedure or length of training."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if (result.get("procedure"), result.get("trained")) == (procedure.facts, trained) else None


@dataclass
class _Gathered:
    """Collect what is measured about one row of a subject, batch by batch.

    Attributes:
      cases: a row a CT.
      views: by angle, a row an X-ray.
      kept: arrays of the first cases.
    """

    cases: list[dict[str, Any]] = field(default_factory=list)
    views: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    kept: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, batch: Measured, title: str, pictures: int) -> None:
        self.seconds.append(batch.seconds[title])
        self.cases += [without_nan(row) for row in batch.volumes.get(title, [])]
        for angle, rows in batch.views[title].items():
            self.views.setdefault(f"{angle:g}", []).extend(rows)
        pictured = sum(case < pictures for case in batch.cases.numbers)
        self.kept += [_kept(batch, title, i) for i in range(pictured)]

    def write(self, path: Path, facts: dict[str, Any]) -> Result:
        # The first batch pays for compilation.
        seconds = float(np.median(self.seconds[1:] or self.seconds))
        record = {**facts, "seconds_per_case": seconds, "cases": self.cases, "views": self.views}
        with replacing(path.with_suffix(".npz")) as part, part.open("wb") as file:
            arrays: dict[str, Any] = {
                n: np.stack([np.asarray(k[n][..., 0], np.float16) for k in self.kept]) for n in self.kept[0]
            }
            np.savez_compressed(file, **arrays)
        with replacing(path) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record


def measure_subject(
    subject: Subject, test: CaseSet, procedure: Procedure, folder: Path, before: Callable[[], None] = lambda: None
) -> dict[str, Result]:
    """Measure a subject on a test set and write its rows: a JSON file each, the volumes of the first cases beside it.

    Args:
      subject: what is measured.
      test: the cases.
      procedure: how they are measured.
      folder: of all measurements.
      before: is called before every batch; if it raises, the measurement ends and writes nothing.

    Returns:
      By name of the row: ``cases``, a row a CT, none for a method that makes views alone; ``views``, by angle, a row an
      X-ray. Float32 is not rounded to TF32 on a GPU.
    """
    gathered = {title: _Gathered() for title in subject.method.rows}
    with full_precision():
        for batch in measure(
            [subject.method], subject.variables, subject.dvg, test.source, procedure, subject.targets, before
        ):
            for title, part in gathered.items():
                part.add(batch, title, procedure.pictures)
    names = rows_named(subject.name, subject.method.agrees)
    facts: dict[str, Any] = {"data": test.name, "procedure": procedure.facts, "trained": subject.trained}
    facts |= {"parameters": subject.parameters}
    with together():
        return {
            name: part.write(result_path(folder, name, test.name), {"subject": name, **facts})
            for name, part in zip(names, gathered.values(), strict=True)
        }


def _kept(batch: Measured, title: str, i: int) -> dict[str, Any]:
    """Return the arrays of one case that pictures are drawn from."""
    found: Any = batch.predictions[title]
    result = found.views if found.ct is None else found.ct
    arrays = {"truth": batch.cases.truth, "result": result, "true_views": batch.true_views, "views": found.views}
    return {name: array[i] for name, array in arrays.items()}


def targets_of(run: Run) -> tuple[float, ...]:
    """Return the angles at which Table VI measures this method with these inputs, for all tables alike."""
    same = [r for r in rows_of("VI") if (r.method, r.angles) == (run.method, tuple(run.config.angles))]
    angles = {r.target for r in same if r.target is not None and r.new_angles in ((), tuple(run.config.new_angles))}
    return tuple(sorted(angles))
