"""Calibrate how large the error of a result is: split-conformal quantiles of |error| by group of voxels.

    cases kept aside --reconstruct--> |error| of every voxel --group--> quantiles of each group
    a result         --reconstruct--> the group of every voxel -------> the quantile of its group: the error map

Voxels of a group are alike in what is known without the truth: the tissue of the result, how many films' rays cross
them and, where several samples were drawn, how much these differ.

The unit of calibration is the case, since the voxels of one case err together. With n cases, the quantile of a share is
the least q for which (m + 1) / (n + 1) <= 1 - share, where m is the sum over cases of the part of the group's voxels
whose error is above q (conformal risk control, Angelopoulos et al. 2024, Theorem 1). If the cases kept aside and a new
one are exchangeable, that part of a new case is at most 1 - share in expectation, over the draw of all n + 1 cases. It
may be larger in a single case, at a single place and, since groups are calibrated one by one, in all voxels together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dvg_jax.ct.frame import HostVolume
from dvg_jax.ct.intensity import HU_RANGE
from dvg_jax.dvg import DVG
from dvg_jax.finite import finite
from dvg_jax.metrics.tissue import BANDS
from dvg_jax.xray import ConeBeamGeometry, ray_coverage, view_pose

SHARES = (50, 80, 90, 95)
"""Quantiles are calibrated at these shares, in per cent."""

MAPPED = 90
"""The error map has the quantile of this share."""

SPREAD_HU = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Groups are divided at these standard deviations over samples, in HU."""

LEAST = 19
"""Fewer cases give no guarantee, since (n + 1) (1 - share) is below 1 at 95 %."""

_SPREAD = 3
"""The finest level of :func:`grouped`, by spread, has this place."""

Quantiles = Float[np.ndarray, "_ shares"]
"""It holds a row a group, in HU."""

Groups = Int[np.ndarray, "D H W"]
"""It holds the number of each voxel's group."""


@cache
def ray_support(angles: tuple[float, ...], geometry: ConeBeamGeometry) -> Groups:
    """Count the views at ``angles`` whose rays cross each voxel."""

    def count() -> jax.Array:
        return jnp.sum(jnp.stack([ray_coverage(view_pose(angle)[None], geometry) for angle in angles]), 0)

    return np.asarray(jax.jit(count)())


def grouped(ct_hu: HostVolume, support: Groups, spread_hu: HostVolume | None = None) -> list[Groups]:
    """Return the groups of every voxel, from one group for all to ever finer ones.

    Args:
      ct_hu: the result in HU.
      support: from :func:`ray_support`.
      spread_hu: standard deviation over samples in HU; None where there is one sample.

    Returns:
      Numbers of: all voxels; their tissue; tissue and support; and, with ``spread_hu``, all three.
    """
    tissue = np.digitize(np.round(ct_hu), [band.low_hu for band in BANDS[1:]])
    both = tissue * (support.max(initial=0) + 1) + support
    levels = [np.zeros_like(tissue), tissue, both]
    return levels if spread_hu is None else [*levels, both * (len(SPREAD_HU) + 1) + np.digitize(spread_hu, SPREAD_HU)]


class Errors:
    """Collect the errors of cases kept aside, for each group the mean over cases of its errors' distribution."""

    def __init__(self, support: Groups, several: bool) -> None:
        """Begin with no case. ``support`` is that of all cases; ``several`` tells whether spreads are given."""
        self.support, pairs = support, len(BANDS) * (int(support.max()) + 1)
        sizes = (1, len(BANDS), pairs, *((pairs * (len(SPREAD_HU) + 1),) if several else ()))
        self._shares = [np.zeros((size, int(HU_RANGE) + 1)) for size in sizes]
        self._cases = [np.zeros(size, int) for size in sizes]

    def add(self, ct_hu: HostVolume, truth_hu: HostVolume, spread_hu: HostVolume | None) -> None:
        """Add a case.

        Args:
          ct_hu: the result, one sample, in HU.
          truth_hu: the truth.
          spread_hu: standard deviation over samples, given for all cases or for none.

        Raises:
          UserError: values that are not finite.
        """
        finite("a result that is calibrated", (ct_hu, truth_hu, spread_hu))
        steps = np.ceil(np.abs(ct_hu - truth_hu)).astype(int).clip(0, int(HU_RANGE))
        levels = grouped(ct_hu, self.support, spread_hu)
        for shares, cases, groups in zip(self._shares, self._cases, levels, strict=True):
            counts = np.zeros(shares.shape)
            np.add.at(counts, (groups, steps), 1)
            found = counts.sum(axis=1) > 0
            shares[found] += counts[found] / counts[found].sum(axis=1, keepdims=True)
            cases += found

    def quantiles(self) -> list[Quantiles]:
        """Return the quantiles in whole HU, rounded up, of the groups of each level.

        A group that fewer than ``LEAST`` cases have gets those of the coarser group that contains it. No spread lowers
        them: a group has at least those of smaller spreads, so that one larger than any of the cases counts as large.
        """
        levels = [_quantiles(self._shares[0], self._cases[0])]
        for level, (shares, cases) in enumerate(zip(self._shares[1:], self._cases[1:], strict=True), 1):
            own = np.where(cases[:, None] >= LEAST, _quantiles(shares, cases), 0)
            if level == _SPREAD:
                own = np.maximum.accumulate(own.reshape(-1, len(SPREAD_HU) + 1, len(SHARES)), axis=1).reshape(own.shape)
            coarser = np.repeat(levels[-1], len(own) // len(levels[-1]), axis=0)
            levels.append(np.where(own > 0, own, coarser))
        return levels


def _quantiles(shares: Float[np.ndarray, "groups steps"], cases: Int[np.ndarray, "groups"]) -> Quantiles:
    """Return the quantiles of groups; no error is above the whole range, which stands where no other has the share."""
    above = cases[:, None] - np.cumsum(shares, axis=1)
    allowed = (1 - np.array(SHARES) / 100) * (cases[:, None] + 1) - 1
    enough = above[:, None] <= allowed[..., None] + 1e-9
    enough[..., -1] = True
    return np.argmax(enough, axis=-1).astype(np.float64)


@dataclass(frozen=True)
class Calibration:
    """Hold the quantiles of a model's errors.

    Attributes:
      quantiles: from :meth:`Errors.quantiles`.
      facts: JSON-able, about cases and model; ``cases`` says what it was calibrated on.
    """

    quantiles: list[Quantiles]
    facts: Mapping[str, Any]

    def bounds(
        self, ct_hu: HostVolume, support: Groups, spread_hu: HostVolume | None = None
    ) -> Float[np.ndarray, "D H W shares"]:
        """Return each voxel's quantile of |error| in HU, for all ``SHARES``; the arguments are :func:`grouped`'s."""
        several = spread_hu is not None and len(self.quantiles) > _SPREAD
        groups = grouped(ct_hu, support, spread_hu if several else None)
        return self.quantiles[len(groups) - 1][groups[-1]]

    def error_map(self, ct_hu: HostVolume, support: Groups, spread_hu: HostVolume | None = None) -> HostVolume:
        """Return each voxel's quantile of the share ``MAPPED``, in HU."""
        return self.bounds(ct_hu, support, spread_hu)[..., SHARES.index(MAPPED)].astype(np.float32)


def way_of(dvg: DVG, angles: tuple[float, ...]) -> dict[str, Any]:
    """Return how a method makes a result from views at ``angles``, as JSON: quantiles are of one such way.

    A model of certain views stands for any that it takes.
    """
    sampler, fit = dvg.sampler, dvg.fit
    way: dict[str, Any] = {"angles": list(angles if dvg.random_views else dvg.angles), "consistency": dvg.consistency}
    if dvg.consistency != "none":
        way |= {"strength": fit.strength, "iterations": fit.iterations}
    if dvg.use_diffusion:
        way |= {"sampler": sampler.name, "steps": sampler.steps or dvg.schedule.timesteps}
    return way


def usable(found: Calibration | str, dvg: DVG, angles: tuple[float, ...]) -> Calibration | str:
    """Return a calibration if it is of results made in this way; else, or where there is none, the first reason.

    Args:
      found: from :func:`dvg_jax.training.calibrate.load_calibration`.
      dvg: the method, with the sampler and the mode of consistency of the result.
      angles: of its views, in degrees.
    """
    if isinstance(found, str) or found.facts["way"] == (way := way_of(dvg, angles)):
        return found
    theirs = found.facts["way"]
    name = next(name for name in theirs | way if theirs.get(name) != way.get(name))
    return f"the model is calibrated with {name} {theirs.get(name)}, not {way.get(name)}"


def covered(
    bounds: Float[np.ndarray, "D H W shares"], ct_hu: HostVolume, truth_hu: HostVolume, where: np.ndarray
) -> dict[str, float]:
    """Return for each share how many per cent of the voxels ``where`` have an error up to their bound, and its mean.

    Args:
      bounds: from :meth:`Calibration.bounds`, in HU.
      ct_hu: the result.
      truth_hu: the truth.
      where: (D, H, W), bool.
    """
    inside = (np.abs(ct_hu - truth_hu)[..., None] <= bounds)[where].mean(axis=0)
    found = {f"covered_{share}": 100 * float(part) for share, part in zip(SHARES, inside, strict=True)}
    means = bounds[where].mean(axis=0)
    return found | {f"half_width_{share}_hu": float(mean) for share, mean in zip(SHARES, means, strict=True)}
