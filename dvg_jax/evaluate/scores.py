"""Collect the rows of an evaluation by method, and write them as tables."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from dvg_jax.calibration import Calibration, covered, ray_support
from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.dvg import DVG
from dvg_jax.evaluate.measure import Measured
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.reprojection import blind_partners, reprojection_metrics, unseen_angle
from dvg_jax.metrics.tables import Row, figure_names, patients_of, write_table
from dvg_jax.metrics.tissue import AIR_LIMIT


class Scores:
    """Collect rows by method: of CTs (``volumes``), their ``reprojections`` and synthesised X-rays (``views``).

    ``main`` is the method whose CTs are compared with other patients' X-rays too, and with its error map where it is
    calibrated (``coverage``); none if empty.
    """

    def __init__(self, dvg: DVG, measures: Measures, main: str, calibration: Calibration | None = None):
        self.dvg, self.measures, self.main, self.calibration = dvg, measures, main, calibration
        self.coverage: dict[str, list[Row]] = {}
        self.unseen = unseen_angle((*dvg.angles, *dvg.new_angles))
        self.volumes: dict[str, list[Row]] = {}
        self.views: dict[str, list[Row]] = {}
        self.reprojections: dict[str, list[Row]] = {}
        self._lines: list[tuple[Row, jax.Array, jax.Array]] = []

    def add(self, batch: Measured) -> None:
        """Add the rows of a batch, and those of the reprojections of its CTs."""
        by = {"lpips_by": self.measures.lpips_by} if self.measures.lpips_by else {}

        def add(table: dict[str, list[Row]], method: str, rows: list[Row]) -> None:
            labelled = [label | by | row for label, row in zip(batch.cases.labels, rows, strict=True)]
            table.setdefault(method, []).extend(labelled)

        for method, rows in batch.volumes.items():
            add(self.volumes, method, rows)
        for angle in self.dvg.new_angles:
            for method, by_angle in batch.views.items():
                add(self.views, f"{method}, view at {angle:g} degrees", by_angle[angle])
        self._add_reprojections(batch)
        if self.calibration is not None:
            self.coverage.setdefault(self.main, []).extend(self._covered(batch, self.calibration))

    def _covered(self, batch: Measured, calibration: Calibration) -> Iterator[Row]:
        """Compare the error map of each case's CT, one sample, with its error."""
        support, made = ray_support(self.dvg.angles, self.dvg.geometry), batch.predictions[self.main].ct
        assert made is not None
        for i, label in enumerate(batch.cases.labels):
            ct, truth = (intensity_to_hu(np.asarray(x[i, ..., 0])) for x in (made, batch.cases.truth))
            bounds = calibration.bounds(ct, support)
            yield label | {
                f"{name}_{where}": figure
                for where, voxels in (("body", truth > AIR_LIMIT), ("all", np.ones(truth.shape, bool)))
                for name, figure in covered(bounds, ct, truth, voxels).items()
            }

    def _add_reprojections(self, batch: Measured) -> None:
        cases, angles = batch.cases, (*self.dvg.angles, self.unseen)
        lines = self.dvg.render(cases.truth, angles, normalize=False)[..., 0]
        for method, prediction in batch.predictions.items():
            if prediction.ct is None:
                continue
            found = self.dvg.render(prediction.ct, angles, normalize=False)[..., 0]
            rows = [label | reprojection_metrics(lines[i], found[i]) for i, label in enumerate(cases.labels)]
            self.reprojections.setdefault(method, []).extend(rows)
            if method == self.main:
                self._lines += [(label, lines[i], found[i]) for i, label in enumerate(cases.labels)]

    def write(self, folder: Path, title: str) -> str:
        """Write every table; return them as text."""
        lpips = f", LPIPS by {self.measures.lpips_by}" if self.measures.lpips_by else ""
        text = [write_table(self.volumes, folder / "volumes", f"CT: {title}{lpips}", self.measures.tables())]
        shown = ", ".join(f"{a:g}" for a in self.dvg.angles)
        text.append(
            write_table(
                self.reprojections | self._control(),
                folder / "reprojections",
                f"Reprojection, shown at {shown} degrees, never shown at {self.unseen:g}: {title}",
            )
        )
        if self.views:
            text.append(write_table(self.views, folder / "views", f"Synthesised X-ray: {title}{lpips}"))
        if self.coverage:
            text.append(self._write_coverage(folder, title))
        return "\n\n".join(text)

    def _write_coverage(self, folder: Path, title: str) -> str:
        assert self.calibration is not None
        names = figure_names(self.coverage[self.main][0])
        tables = {f"{where} voxels": [name for name in names if name.endswith(where)] for where in ("body", "all")}
        about = "calibrated on {cases} {kind}".format_map(self.calibration.facts)
        return write_table(self.coverage, folder / "coverage", f"Error map, {about}: {title}", tables)

    def _control(self) -> dict[str, list[Row]]:
        """Compare the main method's CTs with the X-rays of other patients: how near one comes without a film."""
        partners = blind_partners(patients_of([label for label, *_ in self._lines]))
        if not partners or None in partners:
            return {}
        rows = [
            label | reprojection_metrics(truth, self._lines[j][2])  # type: ignore[index]
            for (label, truth, _), j in zip(self._lines, partners, strict=True)
        ]
        return {f"{self.main} of another patient": rows}
