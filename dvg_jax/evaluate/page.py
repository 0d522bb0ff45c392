"""Write the page of an evaluation: its first cases compared with the truth, and the tables of means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dvg_jax.ct.frame import FIELD_MM, frame_affine
from dvg_jax.dvg import DVG
from dvg_jax.evaluate.measure import Measured
from dvg_jax.evaluate.scores import Scores
from dvg_jax.fingerprint import VERSION, fingerprint
from dvg_jax.metrics.tables import Row
from dvg_jax.report import Case, Page, write_page
from dvg_jax.report.cases import build_case, build_films, means_tables
from dvg_jax.shapes import VariablesByStage


class EvaluationPage:
    """Collect cases while they are evaluated; ``shown`` are the titles of the rows whose CTs are on the page."""

    def __init__(self, dvg: DVG, variables: VariablesByStage, shown: Sequence[str]) -> None:
        self.dvg, self.variables, self.shown = dvg, variables, shown
        self.cases: list[Case] = []

    def add(self, batch: Measured, i: int, metrics: dict[str, Row]) -> None:
        """Add case ``i`` of a batch, the last row first: it is DVG-Diffusion's where that is trained.

        Args:
          batch: what was measured.
          i: the case's place in the batch.
          metrics: the case's rows by title.
        """
        truth, made = batch.cases.truth, batch.new_views
        results = {title: found.ct for title, found in reversed(batch.predictions.items()) if title in self.shown}
        volumes = {title: np.asarray(ct[i, ..., 0]) for title, ct in results.items() if ct is not None}
        views = self.dvg.render(truth[i : i + 1], self.dvg.angles)
        titles = [f"{angle:g} degrees" for angle in self.dvg.angles]
        films = build_films(self.dvg, self.dvg.angles, titles, views, next(iter(volumes.values())))
        affine = frame_affine(truth.shape[1:4], FIELD_MM / truth.shape[1])
        new = None if made is None else made[i : i + 1]
        ct, title = np.asarray(truth[i, ..., 0]), f"case {len(self.cases)}"
        self.cases.append(
            build_case(title, self.dvg, self.dvg.angles, films, volumes, affine, ct, new, metrics=metrics)
        )

    def write(self, path: Path, title: str, config: ConfigDict, workdir: Path, scores: Scores) -> None:
        """Write the collected cases and the tables as one HTML page.

        Args:
          path: the page.
          title: its title.
          config: the settings of the run.
          workdir: the folder of the run.
          scores: the rows of all cases.
        """
        settings = _settings(config, workdir) | {"model_fingerprint": fingerprint(self.variables)}
        tables = means_tables("CT", scores.volumes, scores.measures.tables())
        tables += means_tables("Reprojection", scores.reprojections)
        tables += means_tables("Synthesised X-ray", scores.views) if scores.views else []
        write_page(path, Page(title, tuple(self.cases), settings, (), tuple(tables)))


def _settings(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Return the settings on the page; all others are in the folder's ``config.json``."""
    chosen = ("seed", "size", "geometry", "angles", "new_angles", "projector", "use_vpge", "use_diffusion")
    facts = {"model": str(workdir), "version": VERSION, "source": config.data.source}
    sections = ("consistency", "evaluate")
    return facts | {name: config[name] for name in chosen} | {name: config[name].to_dict() for name in sections}
