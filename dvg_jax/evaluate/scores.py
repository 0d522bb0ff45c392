"""The figures of an evaluation, case by case, and the tables they make."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.ct.intensity import intensity_to_hu
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.reprojection import blind_partners, reprojection_metrics, unseen_angle
from dvg_jax.metrics.tables import Row, patients_of, write_table
from dvg_jax.shapes import AnyVolume, Views, Volumes

MEAN, CEILING = "mean training volume", "CT VQGAN of the truth"
"""Yardsticks: what one knows without an X-ray, and what no method that decodes with that VQGAN can exceed by much."""


def build_measures(config: ConfigDict) -> Measures:
    """The figures that ``config.evaluate`` asks for."""
    chosen = config.evaluate
    # --config.evaluate.protocols=hu,dvg arrives as one word.
    names = tuple(name for word in chosen.protocols for name in word.split(","))
    return Measures(names, chosen.lpips, chosen.lpips_range)


def row_labels(source: Source, case: int, truth: AnyVolume) -> Row:
    """What a row is about; the truth's mean HU tells whether two runs had the same case."""
    patients = getattr(source, "patients", None)
    hu = float(jnp.mean(intensity_to_hu(truth)))
    return {"case": case, "patient": patients[case] if patients else f"phantom {case}", "truth_hu": round(hu, 2)}


class Scores:
    """Rows of all cases by method: CTs (``volumes``), their ``reprojections``, synthesised X-rays (``views``)."""

    def __init__(self, dvg: DVG, measures: Measures):
        self.dvg, self.measures = dvg, measures
        self.unseen = unseen_angle((*dvg.angles, *dvg.new_angles))
        self.volumes: dict[str, list[Row]] = {}
        self.views: dict[str, list[Row]] = {}
        self.reprojections: dict[str, list[Row]] = {}
        self._lines: list[tuple[Row, jax.Array, jax.Array]] = []
        self._main = MEAN

    def add(
        self, labels: list[Row], truth: Volumes, results: dict[str, Volumes], synthesised: dict[str, Views]
    ) -> None:
        """Measure a batch, whose first ``len(labels)`` cases count."""
        dvg, measures = self.dvg, self.measures
        angles = (*dvg.angles, self.unseen)
        lines = dvg.render(truth, angles, normalize=False)[..., 0]
        found = {method: dvg.render(ct, angles, normalize=False)[..., 0] for method, ct in results.items()}
        true = dvg.render(truth, dvg.new_angles) if synthesised else None
        pairs = {
            f"{method}, view at {a:g} degrees": (true[:, v], made_views[:, v])  # type: ignore[index]
            for v, a in enumerate(dvg.new_angles)
            for method, made_views in synthesised.items()
        }
        self._main = list(results)[-1]
        by = {"lpips_by": measures.lpips_by} if measures.lpips_by else {}
        for i, label in enumerate(labels):
            for method, result in results.items():
                row = label | by | measures.volume(truth[i, ..., 0], result[i, ..., 0])
                self.volumes.setdefault(method, []).append(row)
                row = label | reprojection_metrics(lines[i], found[method][i])
                self.reprojections.setdefault(method, []).append(row)
            for method, (expected, view) in pairs.items():
                row = label | by | measures.view(expected[i, ..., 0], view[i, ..., 0])
                self.views.setdefault(method, []).append(row)
            self._lines.append((label, lines[i], found[self._main][i]))

    def write(self, folder: Path, title: str) -> str:
        """Write every table; gives them as text."""
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
        return "\n\n".join(text)

    def _control(self) -> dict[str, list[Row]]:
        """What another patient's reconstruction has: agreement with the films that took no look at them."""
        partners = blind_partners(patients_of([label for label, *_ in self._lines]))
        if self._main == MEAN or None in partners:
            return {}
        rows = [
            label | reprojection_metrics(truth, self._lines[j][2])  # type: ignore[index]
            for (label, truth, _), j in zip(self._lines, partners, strict=True)
        ]
        return {f"{self._main} of another patient": rows}
