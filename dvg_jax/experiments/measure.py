"""Measure a run on cases it was not trained on, and keep what was measured."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dvg_jax.baselines import build_baseline
from dvg_jax.config.build import build_dvg, build_source
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.evaluate.run import case_batches, mean_volume
from dvg_jax.evaluate.scores import CEILING, MEAN, row_labels
from dvg_jax.experiments.catalogue import rows_of
from dvg_jax.experiments.plan import PIPELINE, STAGE_OF, Job, Run
from dvg_jax.files.atomic import replacing, together
from dvg_jax.metrics.protocols import Measures
from dvg_jax.shapes import Key, Views, Volumes
from dvg_jax.training.workdir import load_stages

Predictor = Callable[[Volumes, Key], Volumes | Views]
"""(the true CTs, which it sees by their X-rays alone; key) -> CTs, or views where the method makes those."""

Result = dict[str, Any]


@dataclass(frozen=True)
class CaseSet:
    """Cases to measure on; the name is for tables and files."""

    name: str
    source: Source


@dataclass(frozen=True)
class Procedure:
    """How runs are measured: results of different procedures are never put beside each other.

    Attributes:
      seed: of samples.
      cases: at most, from the front of a test set.
      pictures: how many cases' volumes are kept for figures.
    """

    measures: Measures
    seed: int
    cases: int
    batch_size: int
    pictures: int

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Subject:
    """What is measured: a trained run or a yardstick.

    Attributes:
      targets: degrees of the X-rays that are measured too.
      trained: by job, how many CTs it was shown.
    """

    name: str
    predict: Predictor
    dvg: DVG
    makes_views: bool
    targets: tuple[float, ...]
    trained: dict[str, int]
    parameters: int


def trained_run(run: Run, folder: Path) -> Subject:
    """A run whose jobs are finished in ``folder``, ready to be measured."""
    dvg = build_dvg(run.config)
    variables = jax.device_put(load_stages(run.config, folder, run.stages, wanted_by=run.name))
    parameters = sum(leaf.size for stage in variables.values() for leaf in jax.tree.leaves(stage["params"]))
    if run.method in PIPELINE:
        predict = lambda ct, key: dvg.reconstruct(variables, dvg.render(ct, dvg.angles), dvg.angles, key)  # noqa: E731
        return Subject(run.name, predict, dvg, False, targets_of(run), run.volumes, parameters)
    baseline = build_baseline(STAGE_OF.get(run.method, run.method), run.config, dvg)
    predict = lambda ct, key: baseline.predict(variables, dvg.render(ct, dvg.angles), key)  # noqa: E731
    return Subject(run.name, predict, dvg, baseline.makes_views, targets_of(run), run.volumes, parameters)


def mean_of(config: ConfigDict) -> Subject:
    """The mean training volume, whatever the X-rays show."""
    mean = mean_volume(build_source(config, "train"))
    return Subject(MEAN, lambda ct, key: jnp.broadcast_to(mean, ct.shape), build_dvg(config), False, (), {}, 0)


def ceiling_of(job: Job, folder: Path) -> Subject:
    """The trained CT VQGAN's reconstruction of the truth itself."""
    dvg = build_dvg(job.config)
    variables = jax.device_put(load_stages(job.config, folder / job.name, ("ct_vqgan",), wanted_by=CEILING))

    def predict(ct: Volumes, key: Key) -> Volumes:
        return dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, ct)))

    return Subject(CEILING, predict, dvg, False, (), {job.name: job.volumes}, 0)


def result_path(folder: Path, subject: str, test: str) -> Path:
    """Where a measurement is kept; the volumes for pictures lie beside it as ``.npz``."""
    return folder / subject.replace(" ", "_") / f"{test.replace(' ', '_')}.json"


def read_result(path: Path, trained: dict[str, int], procedure: Procedure) -> Result | None:
    """What was measured, unless there is nothing or it belongs to another procedure or length of training."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if (result.get("procedure"), result.get("trained")) == (procedure.facts, trained) else None


def measure(
    subject: Subject, test: CaseSet, procedure: Procedure, path: Path, between: Callable[[], None] = lambda: None
) -> Result:
    """Measure a subject on a test set and write the figures to ``path``.

    ``between`` is called before every batch; if it raises, the measurement ends and writes nothing.

    Returns:
      ``cases``: a row of figures a CT, none for a method that makes views alone; ``views``: by angle, a row an X-ray.
    """
    dvg, targets = subject.dvg, subject.targets
    cases: list[dict] = []
    views: dict[str, list[dict]] = {f"{a:g}": [] for a in targets}
    kept, seconds = [], []
    for numbers, truth in case_batches(test.source, procedure.batch_size, procedure.cases):
        between()
        start = time.perf_counter()
        key = jax.random.fold_in(jax.random.key(procedure.seed), numbers[0])
        result = jax.block_until_ready(subject.predict(truth, key))
        seconds.append((time.perf_counter() - start) / len(truth))
        shown = result if subject.makes_views else dvg.render(result, targets)
        true = dvg.render(truth, targets)
        for i, case in enumerate(numbers):
            label = row_labels(test.source, case, truth[i, ..., 0])
            if not subject.makes_views:
                cases.append(label | _as_json(procedure.measures.volume(truth[i, ..., 0], result[i, ..., 0])))
            for v, rows in enumerate(views.values()):
                rows.append(label | procedure.measures.view(true[i, v, ..., 0], shown[i, v, ..., 0]))
            if case < procedure.pictures:
                kept.append({"truth": truth[i], "result": result[i], "true_views": true[i], "views": shown[i]})
    # The first batch pays for compilation.
    record = {
        "subject": subject.name,
        "data": test.name,
        "procedure": procedure.facts,
        "trained": subject.trained,
        "parameters": subject.parameters,
        "seconds_per_case": float(np.median(seconds[1:] or seconds)),
        "cases": cases,
        "views": views,
    }
    with together():
        with replacing(path.with_suffix(".npz")) as part, part.open("wb") as file:
            arrays: dict[str, Any] = {
                n: np.stack([np.asarray(k[n][..., 0], np.float16) for k in kept]) for n in kept[0]
            }
            np.savez_compressed(file, **arrays)
        with replacing(path) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _as_json(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN, which a tissue that the truth lacks has: null."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def targets_of(run: Run) -> tuple[float, ...]:
    """The views that Table VI measures of this method with these inputs, whichever table is being made."""
    same = [r for r in rows_of("VI") if (r.method, r.angles) == (run.method, tuple(run.config.angles))]
    angles = {r.target for r in same if r.target is not None and r.new_angles in ((), tuple(run.config.new_angles))}
    return tuple(sorted(angles))
