"""Measure whether a reconstruction explains the films: compare its X-rays with the true ones.

They are compared at the input angles and at one unseen angle. Agreement at the input angles is no proof of a good CT:
many CTs have the same two films. The input-blind rows show what it is worth, since they do not depend on the film: the
mean training volume, and the reconstruction of another patient (:func:`blind_partners`).
"""

from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.metrics.volume import psnr
from dvg_jax.shapes import Projections
from dvg_jax.xray.views import minmax


def unseen_angle(used: Sequence[float]) -> float:
    """Return the angle in degrees, 0 to 180, that is farthest from all ``used`` ones: the middle of the widest gap.

    The lowest is taken where several gaps are as wide. Angles that differ by 180 degrees count as one: they see the
    same lines but for the divergence of the beam.
    """
    angles = sorted({float(a) % 180 for a in used})
    gaps = [b - a for a, b in zip(angles, [*angles[1:], angles[0] + 180], strict=True)]
    middles = [((a + gap / 2) % 180, gap) for a, gap in zip(angles, gaps, strict=True)]
    widest = max(gaps) - 1e-6  # 45 / 3 and 15 are one gap
    return min(middle for middle, gap in middles if gap >= widest)


@jax.jit
def _errors(truth: Projections, result: Projections) -> tuple[Array, Array]:
    films = jnp.mean((minmax(truth) - minmax(result)) ** 2, axis=(1, 2))
    lines = jnp.linalg.norm(result - truth, axis=(1, 2)) / jnp.linalg.norm(truth, axis=(1, 2))
    return psnr(films), lines


def reprojection_metrics(truth: Projections, result: Projections) -> dict[str, float]:
    """Return the errors of line integrals (not normalised), of which the last view is unseen and all others are inputs.

    Returns:
      For the input views (their mean) and the unseen one: ``film_psnr``, in dB, of images that are min-max normalised
      as films are, peak 1; and ``line_error``, the rms error of the line integrals over their rms. The first forgives a
      wrong exposure, the second does not.
    """
    films, lines = _errors(truth, result)
    return {
        "shown_film_psnr": float(jnp.mean(films[:-1])),
        "shown_line_error": float(jnp.mean(lines[:-1])),
        "unseen_film_psnr": float(films[-1]),
        "unseen_line_error": float(lines[-1]),
    }


def blind_partners(patients: Sequence[Hashable]) -> list[int | None]:
    """Return for each case the next one (in a circle) of another patient; None where there is no other patient."""
    n = len(patients)
    ahead = ([(i + k) % n for k in range(1, n)] for i in range(n))
    return [next((j for j in js if patients[j] != patients[i]), None) for i, js in enumerate(ahead)]
