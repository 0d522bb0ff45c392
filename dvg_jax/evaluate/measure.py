"""Let methods predict unseen cases from their X-rays, and measure each: the one place where that happens."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import jax

from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG, Estimates
from dvg_jax.evaluate.cases import Cases, Procedure, case_batches
from dvg_jax.finite import finite
from dvg_jax.methods.base import DVG_NET, Method, Prediction, agreeing
from dvg_jax.metrics.tables import Row, whole
from dvg_jax.shapes import Key, VariablesByStage, Views, Volumes
from dvg_jax.training import sharding


@dataclass(frozen=True)
class Measured:
    """Hold a batch of cases and what was predicted for them, by the title of each method's row or rows.

    Attributes:
      volumes: rows of CTs, one a case; no entry for a method that makes views alone.
      views: rows of X-rays by angle in degrees, one a case; no entry for a method that is not measured by them.
      seconds: of one case, from its X-rays to the CT.
      true_views: what ``views`` were compared with, (B, V', h, w, 1).
    """

    cases: Cases
    predictions: dict[str, Prediction]
    volumes: dict[str, list[Row]]
    views: dict[str, dict[float, list[Row]]]
    seconds: dict[str, float]
    true_views: Views

    @property
    def new_views(self) -> Views | None:
        """Return the views that DVG-Net has synthesised; None where it is not measured or makes none."""
        return self.predictions[DVG_NET].views if DVG_NET in self.predictions else None


def measure(
    methods: Sequence[Method],
    variables: VariablesByStage,
    dvg: DVG,
    source: Source,
    procedure: Procedure,
    targets: tuple[float, ...] | None = None,
    before: Callable[[], None] = lambda: None,
    films: Callable[[Cases], Views] | None = None,
) -> Iterator[Measured]:
    """Measure methods on the first cases of a source, batch by batch.

    A method predicts each case once, also where its CTs are measured again after they were made to agree with their
    X-rays.

    Where batches divide by the process's devices, each device predicts its share; rows are computed on one.

    Args:
      methods: all with the views of ``dvg``.
      variables: by stage, those that the methods require.
      targets: degrees of the X-rays that are measured, of every method, rendered from its CT unless it makes views
        alone; unless given, the views that methods give at ``dvg.new_angles``.
      before: is called before every batch; what it raises ends the measurement.
      films: gives the X-rays that methods see, (B, V, h, w, 1); unless given, they are rendered from the truth.

    Raises:
      UserError: a prediction or a metric is not finite.
    """
    mesh = sharding.even_mesh(procedure.batch_size)
    if mesh is not None:
        variables = jax.device_put(variables, sharding.replicated(mesh))
    dvg = replace(dvg, fit=procedure.fit)
    angles, measures = dvg.new_angles if targets is None else targets, procedure.measures
    for cases in case_batches(source, procedure):
        before()
        truth, seen = cases.truth, films(cases) if films else dvg.render(cases.truth, dvg.angles)
        if mesh is not None:
            truth, seen = jax.device_put((truth, seen), sharding.rows_split(mesh))
        predictions, seconds = {}, {}
        for method in methods:
            for title, found, took in _rows(method, variables, dvg, truth, seen, cases.key):
                seconds[title] = took / len(truth)
                # One by one: device_put returns a dictionary sorted by key, and the order of methods counts.
                predictions[title] = found if mesh is None else jax.device_put(found, jax.local_devices()[0])
        for title, found in predictions.items():
            for i, case in enumerate(cases.numbers):
                finite(f"{title}, case {case},", [part[i] for part in found if part is not None])
        if targets is not None:
            predictions = {title: _at(targets, dvg, found) for title, found in predictions.items()}
        true_views = dvg.render(cases.truth, angles)
        volumes, views = {}, {}
        for title, found in predictions.items():
            if found.ct is not None:
                volumes[title] = [
                    whole(title, label | measures.volume(cases.truth[i, ..., 0], found.ct[i, ..., 0]))
                    for i, label in enumerate(cases.labels)
                ]
            if found.views is not None:
                views[title] = {
                    angle: [
                        whole(title, label | measures.view(true_views[i, v, ..., 0], found.views[i, v, ..., 0]))
                        for i, label in enumerate(cases.labels)
                    ]
                    for v, angle in enumerate(angles)
                }
        yield Measured(cases, predictions, volumes, views, seconds, true_views)


def _rows(
    method: Method, variables: VariablesByStage, dvg: DVG, truth: Volumes, views: Views, key: Key
) -> Iterator[tuple[str, Prediction, float]]:
    """Yield title, prediction and seconds of a method, and of its CTs made to agree with their X-rays in each mode."""
    start = time.perf_counter()
    found = jax.block_until_ready(method.predict(variables, truth if method.sees_truth else views, key))
    took = time.perf_counter() - start
    yield method.title, found, took
    for mode in method.agrees:
        start = time.perf_counter()
        ct = replace(dvg, consistency=mode).agree(variables, Estimates(found.ct, found.first), views, dvg.angles)
        yield agreeing(method.title, mode), Prediction(jax.block_until_ready(ct)), took + time.perf_counter() - start


def _at(targets: tuple[float, ...], dvg: DVG, found: Prediction) -> Prediction:
    """Replace the views of a CT by its X-rays at ``targets``."""
    return found if found.ct is None else found._replace(views=dvg.render(found.ct, targets))
