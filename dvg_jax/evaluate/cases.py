"""Yield the cases that methods are measured on, batch by batch, and label the rows about them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.config.build import build_fit, build_measures
from dvg_jax.consistency import Fit
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.tables import Row
from dvg_jax.shapes import Key, Volume, Volumes


@dataclass(frozen=True)
class Procedure:
    """Define how methods are measured: results of different procedures are never compared.

    Attributes:
      seed: of samples.
      cases: at most, from the front of a test set.
      pictures: how many cases are pictured.
      fit: how closely CTs that are made to agree with their X-rays follow them.
    """

    measures: Measures
    seed: int
    cases: int
    batch_size: int
    pictures: int
    fit: Fit

    @property
    def facts(self) -> dict[str, Any]:
        """Return the procedure as JSON stores it."""
        return json.loads(json.dumps(asdict(self)))


def build_procedure(config: ConfigDict) -> Procedure:
    """Build what ``config.evaluate`` and ``config.seed`` ask for."""
    chosen = config.evaluate
    measures, fit = build_measures(config), build_fit(config)
    return Procedure(measures, config.seed, chosen.cases, chosen.batch_size, chosen.pictures, fit)


class Cases(NamedTuple):
    """Hold a batch of cases.

    Attributes:
      numbers: in the test set; the last batch is as long as the others, and has fewer numbers and labels than CTs.
      labels: what each case's rows begin with.
      truth: the CTs, (B, D, H, W, 1).
      key: decides the samples.
    """

    numbers: list[int]
    labels: list[Row]
    truth: Volumes
    key: Key


def case_batches(source: Source, procedure: Procedure) -> Iterator[Cases]:
    """Yield the first cases of a source, as many as the procedure asks for."""
    first, key = 0, jax.random.key(procedure.seed)
    for batch in evaluation_batches(source, procedure.batch_size):
        count = min(int(batch["mask"].sum()), procedure.cases - first)
        if count <= 0:
            return
        numbers, truth = list(range(first, first + count)), jnp.asarray(batch["ct"])
        labels = [row_labels(source, case, truth[i, ..., 0]) for i, case in enumerate(numbers)]
        # The key belongs to the batch's first case: a result depends on the batch size, which the config fixes.
        yield Cases(numbers, labels, truth, jax.random.fold_in(key, first))
        first += count


def row_labels(source: Source, case: int, truth: Volume) -> Row:
    """Label the rows of a case; the truth's mean HU tells whether two runs had the same case."""
    patients = getattr(source, "patients", None)
    hu = float(jnp.mean(intensity_to_hu(truth)))
    return {"case": case, "patient": patients[case] if patients else f"phantom {case}", "truth_hu": round(hu, 2)}
