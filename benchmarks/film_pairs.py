"""Measure what alignment does to true pairs of films, of patients whose CT nobody knows.

    python -m benchmarks.film_pairs --workdir runs/demo --films data/pairs [--films data/more] [--name demo]

Pairs are ``NAME_pa.png`` or ``NAME_ap.png`` with ``NAME_lat.png``; what follows ``_d`` in a name is the day, so that
names alike before it are of one patient. The model is one of a frontal and a lateral view. Films are framed as
``reconstruct.py`` does; one that "looks mirrored" is mirrored, and the result says so. For each way of ``--align``, and
in each mode of consistency that the model has, a pair's CT is made and compared with the films that it was made from:
``unexplained`` is the share of the variance of the CT's line integrals that no cubic of the film's greys explains, over
the rays that cross the whole cube. Figures of a pair are of the frontal, then of the lateral film.

``AUC`` is the chance that the rows of a frontal film are more like those of its own lateral film than like those of
another patient's. Writes ``benchmarks/results/film_pairs_<name>.json``.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from benchmarks.common import save
from dvg_jax.alignment import compare_rows
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser
from dvg_jax.consistency import curves, unexplained, whole_rays
from dvg_jax.data.films.read import read_film
from dvg_jax.errors import UserError
from dvg_jax.metrics.tables import align
from dvg_jax.reconstruct.films import FilmRequest, FramedFilm, frame_films
from dvg_jax.reconstruct.placement import align_films, with_curves
from dvg_jax.reconstruct.reconstructor import Reconstructor, load_reconstructor
from dvg_jax.shapes import Volume
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.xray.views import PROJECTORS, table_of

ANGLES = (0.0, 90.0)
ALIGNED = ("none", "rows", "model")
PLACES = ("height_mm", "size", "roll_deg", "tilt_deg")

Figures = dict[str, Any]
"""It holds ``unexplained``, ``PLACES``, ``likeness``, the curve that was ``undone`` and what is left of it,
``curve``, of both films of one CT, and their ``warnings``."""


class Pair(NamedTuple):
    """Hold the files of a frontal and a lateral film of one patient."""

    name: str
    frontal: Path
    lateral: Path

    @property
    def patient(self) -> str:
        """Return the name without the day."""
        return self.name.rpartition("_d")[0] or self.name


def pairs_of(folder: Path) -> list[Pair]:
    """Return the pairs of a folder by name; raise UserError if there is none."""
    found = []
    for lateral in sorted(folder.glob("*_lat.png")):
        name = lateral.name.removesuffix("_lat.png")
        frontal = [file for view in ("pa", "ap") if (file := folder / f"{name}_{view}.png").is_file()]
        found += [Pair(name, file, lateral) for file in frontal[:1]]
    if not found:
        raise UserError(f"--films is {folder}; allowed: folders of NAME_pa.png or NAME_ap.png with NAME_lat.png")
    return found


def auc(likeness: Float[np.ndarray, "P P"], patients: Sequence[str]) -> float:
    """Return the chance that the likeness of a patient's own films is above that of two patients' films.

    Args:
      likeness: of each frontal film with each lateral film.
      patients: of the films, P of them.
    """
    own = np.diag(likeness)[:, None]
    strange = likeness[np.not_equal.outer(np.array(patients), np.array(patients))]
    return float(np.mean((own > strange) + 0.5 * (own == strange)))


def frame(model: Reconstructor, pair: Pair) -> tuple[list[FilmRequest], list[FramedFilm]]:
    """Frame the films of a pair, mirroring those that look mirrored."""
    requests = [FilmRequest(file, angle) for file, angle in zip((pair.frontal, pair.lateral), ANGLES, strict=True)]
    pictures = [read_film(request.path) for request in requests]
    films = frame_films(pictures, requests, model)
    mirrored = [any("looks mirrored" in line for line in film.warnings) for film in films]
    if any(mirrored):
        requests = [request._replace(flip=flip) for request, flip in zip(requests, mirrored, strict=True)]
        films = frame_films(pictures, requests, model)
    return requests, films


def likeness_of(model: Reconstructor, pairs: Sequence[Sequence[FramedFilm]]) -> Float[np.ndarray, "P P"]:
    """Return the likeness of the rows of each frontal film with those of each lateral film, at the best height."""
    geometry = model.dvg.geometry
    rows: list[np.ndarray] = []
    for frontal, _ in pairs:
        films = jnp.asarray(np.stack([[frontal.image, lateral.image] for _, lateral in pairs]))[..., None]
        rows.append(np.asarray(compare_rows(films, table_of(ANGLES, len(films)), geometry)[1], float)[:, 1])
    return np.stack(rows)


def unexplained_shares(model: Reconstructor, ct: Volume, films: Sequence[FramedFilm]) -> list[float]:
    """Return for each film the share of the CT's line integrals, in squares about their mean, that it leaves open."""
    lines = model.dvg.render(jnp.asarray(ct)[None, ..., None], ANGLES, normalize=False)
    whole = whole_rays(PROJECTORS["default"], model.dvg.geometry, ANGLES, 1)
    basis = curves(jnp.asarray(np.stack([film.image for film in films]))[None, ..., None], whole)
    left, all_of_it = (jnp.sum(unexplained(lines, by, whole) ** 2, (2, 3, 4)) for by in (basis, basis[:1]))
    return [float(share) for share in (left / all_of_it)[0]]


def figures_of(
    model: Reconstructor, requests: list[FilmRequest], films: list[FramedFilm], mode: str, consistency: str
) -> Figures:
    """Align films in one way, make their CT and return the figures of both."""
    films = align_films(films, requests, model, mode, consistency=consistency)
    ct = model(np.stack([film.image for film in films]), ANGLES, consistency=consistency)
    films = with_curves(films, requests, model, np.asarray(ct))
    found: Figures = {"unexplained": unexplained_shares(model, ct, films)}
    if mode != "none":
        found |= {name: [film.record["alignment"][name] for film in films] for name in (*PLACES, "likeness")}
        found["undone"] = [film.record["alignment"]["curve"]["to"] for film in films]
    found["curve"] = [film.record["curve"]["to"] for film in films]
    return found | {"warnings": [line for film in films for line in film.warnings]}


def measured(model: Reconstructor, pairs: list[Pair]) -> dict[str, Any]:
    """Return the figures of each pair, by alignment and consistency, and how like rows of films are."""
    modes = [mode for mode in ("none", "films", "refine") if mode != "refine" or "refine" in model.variables]
    found: dict[str, Any] = {}
    framed = []
    for pair in pairs:
        requests, films = frame(model, pair)
        framed.append(films)
        made = {
            f"{mode}, {consistency}": figures_of(model, requests, films, mode, consistency)
            for mode, consistency in product(ALIGNED, modes)
        }
        found[pair.name] = {"mirrored": [r.path.name for r in requests if r.flip], **made}
    likeness = likeness_of(model, framed)
    patients = [pair.patient for pair in pairs]
    return {"AUC": auc(likeness, patients), "likeness": likeness.round(3).tolist(), "pairs": found}


def tables(pairs: dict[str, dict[str, Any]]) -> str:
    """Return medians and worst by alignment and consistency, and a line a pair for alignment by the model."""
    ways = [way for way in next(iter(pairs.values())) if way != "mirrored"]
    body = [["align", "consistency", "unexplained: frontal", "lateral", "worst", "films worse than by none", "warned"]]
    body[0] += ["lateral's height_mm", "size off"]
    for way in ways:
        mode, consistency = way.split(", ")
        shares, before = (
            np.array([p[w]["unexplained"] for p in pairs.values()]) for w in (way, f"none, {consistency}")
        )
        medians = [f"{x:.3f}" for x in (*np.median(shares, axis=0), shares.max())]
        warned = sum(bool(p[way]["warnings"]) for p in pairs.values())
        height, size = (np.array([p[way].get(x, (0, 0))[1] for p in pairs.values()]) for x in ("height_mm", "size"))
        body.append([mode, consistency, *medians, f"{(shares > before + 0.005).sum()} of {shares.size}", str(warned)])
        body[-1] += [f"{np.median(height):.1f}", f"{np.median(abs(size)):.3f}"]
    way, before_way = ways[-1], f"none, {ways[-1].split(', ')[1]}"
    lines = [["pair", "unexplained", f"after {way}", "lateral's height_mm", *PLACES[1:], "likeness", "mirrored"]]
    for name, pair in pairs.items():
        found = pair[way]
        cells = [" ".join(f"{x:.3f}" for x in pair[w]["unexplained"]) for w in (before_way, way)]
        cells += [f"{found['height_mm'][1]:.1f}", *(" ".join(f"{x:.2f}" for x in found[place]) for place in PLACES[1:])]
        lines.append([name, *cells, f"{found['likeness'][1]:.2f}", " ".join(pair["mirrored"])])
    return f"{align(body)}\n\n{align(lines)}"


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m benchmarks.film_pairs")
    parser.add_argument("--workdir", type=Path, required=True, help="a trained folder")
    parser.add_argument("--films", type=Path, action="append", required=True, help="folder of pairs; repeatable")
    parser.add_argument("--name", default="cpu", help="of the results file (default %(default)s)")
    options = parser.parse_args(argv)
    pairs = [pair for folder in options.films for pair in pairs_of(folder)]
    enable_compilation_cache()
    found = measured(load_reconstructor(options.workdir), pairs)
    print(tables(found["pairs"]))
    print(f"AUC of the rows' likeness: {found['AUC']:.2f}")
    print(save(f"film_pairs_{options.name}", found))


if __name__ == "__main__":
    run_command(main)
