"""How good a trained folder is, on cases it has not seen, next to yardsticks."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from dvg_jax.baselines import Baseline, build_baseline
from dvg_jax.build import build_dvg, build_source, required_stages
from dvg_jax.config import BASELINES
from dvg_jax.data.intensity import intensity_to_hu
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.data.sources import Source
from dvg_jax.dvg import DVG, minmax
from dvg_jax.metrics.protocols import Measures
from dvg_jax.metrics.report import Row, patients_of, write_table
from dvg_jax.metrics.reprojection import blind_partners, reprojection_metrics, unseen_angle
from dvg_jax.shapes import Key, Variables, Views, Volume, Volumes
from dvg_jax.training.run import finished_steps, load_stages
from dvg_jax.viz import comparison_panel, view_strip

MEAN, CEILING, DVG_NET, DVG_FULL = "mean training volume", "CT VQGAN of the truth", "DVG-Net", "DVG-Diffusion"


def evaluate(config: ConfigDict, workdir: Path, show_progress: bool = True) -> str:
    """Measure the model in ``workdir``, and the comparison methods trained beside it, on ``config.data``'s test cases.

    Writes ``evaluation/volumes.csv``, ``reprojections.csv`` and ``views.csv`` with a row a case, the same as JSON with
    means and intervals, and pictures of the first cases.

    Returns:
      The tables of means, to be printed.
    """
    dvg = build_dvg(config)
    measures = build_measures(config)
    baselines = trained_baselines(config, workdir, dvg)
    needed = required_stages(config)
    # Baselines may be measured on their own; a pipeline that is there in part is an error that names what is missing.
    own = needed if not baselines or any(finished_steps(config, workdir, name) for name in needed) else ()
    names = dict.fromkeys([*own, *(name for b in baselines for name in (*b.requires, b.name))])
    variables = jax.device_put(load_stages(config, workdir, tuple(names), wanted_by="evaluation"))
    folder = workdir / "evaluation"
    key = jax.random.key(config.seed)
    mean = mean_volume(build_source(config, "train"))
    test = build_source(config, "test")
    tables = _Tables(dvg, measures)
    bar = tqdm(
        total=min(config.evaluate.cases, len(test)),
        desc=f"{'evaluation':>15}",
        disable=not show_progress,
        dynamic_ncols=True,
    )
    for cases, truth in _batches(config):
        # The key belongs to the batch's first case: a result depends on the batch size, which the config fixes.
        case_key = jax.random.fold_in(key, cases[0])
        results, made = predict(dvg, variables, truth, case_key) if own else ({}, None)
        others, synthesised = predict_baselines(dvg, baselines, variables, truth, case_key)
        results = {MEAN: jnp.broadcast_to(mean, truth.shape), **others, **results}
        if made is not None:
            synthesised[DVG_NET] = made
        tables.add(
            [row_labels(test, case, truth[i, ..., 0]) for i, case in enumerate(cases)], truth, results, synthesised
        )
        for i, case in enumerate(cases):
            if case < config.evaluate.pictures:
                _pictures(dvg, truth, results, made, i, folder / "pictures" / f"case_{case:04d}")
            bar.update()
    bar.close()
    return tables.write(
        folder, f"{bar.total} unseen cases of {config.data.source} at {config.size}^3, {config.geometry} geometry"
    )


def build_measures(config: ConfigDict) -> Measures:
    """The figures that ``config.evaluate`` asks for."""
    chosen = config.evaluate
    # --config.evaluate.protocols=hu,dvg arrives as one word.
    names = tuple(name for word in chosen.protocols for name in word.split(","))
    return Measures(names, chosen.lpips, chosen.lpips_range)


class _Tables:
    """Rows of all cases by method: CTs, their reprojections, and synthesised X-rays."""

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


def row_labels(source: Source, case: int, truth: Volume) -> Row:
    """What a row is about; the truth's mean HU tells whether two runs had the same case."""
    patients = getattr(source, "patients", None)
    hu = float(jnp.mean(intensity_to_hu(truth)))
    return {"case": case, "patient": patients[case] if patients else f"phantom {case}", "truth_hu": round(hu, 2)}


def predict(
    dvg: DVG, variables: dict[str, Variables], truth: Volumes, key: Key
) -> tuple[dict[str, Volumes], Views | None]:
    """Results by method for CTs known only by their X-rays, and the synthesised views, if any are made."""
    shown = dvg.render(truth, dvg.angles)
    results = {CEILING: dvg.finish(dvg.decode(variables, dvg.ct_latent(variables, truth)))}
    made = None
    if "new_view" in variables:
        net = dvg.synthesize_view(variables, dvg.view_latent(variables, shown))
        results[DVG_NET] = dvg.finish(net.ct)
        made = minmax(net.views[..., 0])[..., None] if dvg.new_angles else None
    if dvg.use_diffusion:
        results[DVG_FULL] = dvg.reconstruct(variables, shown, key)
    return results, made


def trained_baselines(config: ConfigDict, workdir: Path, dvg: DVG) -> list[Baseline]:
    """The comparison methods that have been trained in ``workdir``, in the config's order."""
    return [build_baseline(name, config, dvg) for name in BASELINES if finished_steps(config, workdir, name)]


def predict_baselines(
    dvg: DVG, baselines: list[Baseline], variables: dict[str, Variables], truth: Volumes, key: Key
) -> tuple[dict[str, Volumes], dict[str, Views]]:
    """CTs and synthesised views by method, from the same X-rays that DVG-Diffusion is shown."""
    shown = dvg.render(truth, dvg.angles)
    results, made = {}, {}
    for baseline in baselines:
        result = baseline.predict(variables, shown, key)
        if baseline.makes_views:
            made[baseline.title] = result
            continue
        results[baseline.title] = result
        if baseline.in_view_table and dvg.new_angles:
            made[baseline.title] = dvg.render(result, dvg.new_angles)
    return results, made


def mean_volume(source: Source) -> jax.Array:
    """The mean of all CTs of a source, (D, H, W, 1): what one knows without an X-ray."""
    total, count = 0.0, 0
    for batch in evaluation_batches(source, 16):
        ct = np.asarray(batch["ct"])[batch["mask"] > 0]
        total, count = total + ct.sum(axis=0, dtype=np.float64), count + len(ct)
    return jnp.asarray(total / count, jnp.float32)


def _batches(config: ConfigDict) -> Iterator[tuple[list[int], Volumes]]:
    """Case numbers and CTs; the last batch is as long as the others, its numbers are not."""
    source, wanted = build_source(config, "test"), config.evaluate.cases
    first = 0
    for batch in evaluation_batches(source, config.evaluate.batch_size):
        count = min(int(batch["mask"].sum()), wanted - first)
        if count <= 0:
            return
        yield list(range(first, first + count)), jnp.asarray(batch["ct"])
        first += count


def _pictures(dvg: DVG, truth: Volumes, results: dict[str, Volumes], made: Views | None, i: int, path: Path) -> None:
    """Panels of case ``i`` of a batch."""
    columns = {name: np.asarray(x[i, ..., 0]) for name, x in results.items() if name not in (MEAN, CEILING)}
    comparison_panel(np.asarray(truth[i, ..., 0]), columns, path.with_suffix(".png"))
    shown = {f"{a:g} deg": v for a, v in zip(dvg.angles, dvg.render(truth, dvg.angles)[i], strict=True)}
    if made is not None:
        for v, angle in enumerate(dvg.new_angles):
            shown[f"{angle:g} deg, true"] = dvg.render(truth, dvg.new_angles)[i, v]
            shown[f"{angle:g} deg, made"] = made[i, v]
    strip = {name: np.asarray(view[..., 0]) for name, view in shown.items()}
    view_strip(strip, path.with_name(path.name + "_views.png"))
