"""Call a trained model as one function: X-rays in, CT out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from ml_collections import ConfigDict

from dvg_jax.alignment import Alignment, align
from dvg_jax.calibration import Calibration, usable
from dvg_jax.config.build import build_dvg, estimate_stages
from dvg_jax.consistency import MODES, whole_rays
from dvg_jax.diffusion.samplers import Progress, Sampler
from dvg_jax.dvg import DVG, NewView
from dvg_jax.errors import UserError
from dvg_jax.film_curve import FilmCurve, film_curves
from dvg_jax.fingerprint import fingerprint
from dvg_jax.finite import finite
from dvg_jax.shapes import Key, VariablesByStage, Views, Volume
from dvg_jax.training.calibrate import load_calibration
from dvg_jax.training.sharding import even_mesh, replicated, rows_split
from dvg_jax.training.workdir import has_refiner, load_config, load_stages
from dvg_jax.xray.placement import margin_of
from dvg_jax.xray.views import PROJECTORS, minmax, table_of

ANGLE_TOLERANCE = 20.0
"""Largest difference in degrees of a view from the angle that the model was trained for."""

BATCH = 8
"""Samples drawn at a time: the paper's decoder takes 1.5 GiB a sample at 128^3."""

RESULT, ALIGNED = "the model's CT", "the alignment of the films"
"""Messages name results so."""


class Reconstructor:
    """Call a trained model; the first call compiles, later ones with the same angles and steps do not.

    Attributes:
      config: configuration of the training.
      dvg: the method, with its geometry and angles.
      variables: learned variables by stage, on the device.
      calibrated: the model's calibration, or why it has none.
    """

    def __init__(
        self,
        config: ConfigDict,
        dvg: DVG,
        variables: VariablesByStage,
        calibrated: Calibration | str = "the model is not calibrated",
    ) -> None:
        self.config, self.dvg, self.variables = config, dvg, jax.device_put(variables)
        self.calibrated = calibrated

    def __call__(
        self,
        xrays: Float[ArrayLike, "V h w"],
        angles_deg: Float[ArrayLike, "V"] | Sequence[float],
        key: Key | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        progress: Progress | None = None,
        consistency: str | None = None,
    ) -> Volume:
        """Reconstruct one CT.

        Args:
          xrays: views, bright where dense, row 0 at the FOOT end as ``forward_project`` gives them and ``read_film``
            reads them; h and w are the geometry's detector. Each is min-max normalised again.
          angles_deg: angle of each view about the foot-head axis in degrees, 0 frontal, 90 lateral, in any order: views
            are assigned to the model's by their angles. A model of ``random_views`` takes any angles.
          key: random key of the sample; ``jax.random.key(0)`` unless given. The same key gives the same volume.
          steps: sampling steps, 1 to the model's timesteps; the config's number unless given.
          sampler: ``ancestral``, ``ddim`` or ``dpmpp_2m``; the config's unless given.
          progress: called after each sampling step.
          consistency: how the CT is made to agree with the views: ``none``, ``films`` or ``refine``, as in
            :meth:`dvg_jax.dvg.DVG.agree`; the config's unless given.

        Returns:
          (D, H, W), float32 in [0, 1]; ``intensity_to_hu`` converts it to HU.

        Raises:
          UserError: wrong number, size or angles of views, values that are not finite, steps out of range, an unknown
            sampler or consistency, ``refine`` without a trained refiner, or a model whose CT is not finite.
        """
        views, angles = self._checked(xrays, angles_deg)
        dvg = self.as_asked(steps, sampler, consistency)
        key = jax.random.key(0) if key is None else key
        return finite(RESULT, dvg.reconstruct(self.variables, views, angles, key, progress)[0, ..., 0])

    def samples(
        self,
        xrays: Float[ArrayLike, "V h w"],
        angles_deg: Float[ArrayLike, "V"] | Sequence[float],
        keys: Key,
        steps: int | None = None,
        sampler: str | None = None,
        progress: Progress | None = None,
        batch: int = BATCH,
        consistency: str | None = None,
    ) -> Float[np.ndarray, "K D H W"]:
        """Draw one CT a key from the same views, ``batch`` at a time in one compiled call that encodes the views once.

        Sample k equals a call with ``keys[k]``, up to rounding. Memory on the device grows with ``batch``. Where the
        samples of a call divide by the process's devices, each device draws an equal share of them.

        Args:
          xrays, angles_deg, steps, sampler, consistency: as in a call; every sample is made to agree with the views.
          keys: (K,) random keys, as from :func:`sample_keys`.
          progress: called after each sampling step, with the steps of all calls.
          batch: samples drawn at a time; the last call is padded, so that all share one program.

        Raises:
          UserError: as a call does, and for several samples of a deterministic model.
        """
        views, angles = self._checked(xrays, angles_deg)
        count = len(keys)
        dvg = self.as_asked(steps, sampler, consistency, count)
        batch = min(batch, count)
        parts, calls = [], -(-count // batch)
        variables, split = self.variables, None
        if (mesh := even_mesh(batch)) is not None:
            variables, views = jax.device_put((variables, views), replicated(mesh))
            split = rows_split(mesh)
        for first in range(0, count, batch):
            rows = jax.device_put(keys[np.minimum(np.arange(first, first + batch), count - 1)], split)
            step = _shifted(progress, first // batch, calls)
            drawn = dvg.reconstruct(variables, views, angles, rows, step)[..., 0]
            parts.append(np.asarray(finite(RESULT, drawn)))
        return np.concatenate(parts)[:count]

    def align(
        self,
        xrays: ArrayLike,
        angles_deg: ArrayLike | Sequence[float],
        mode: str = "model",
        key: Key | None = None,
        consistency: str | None = None,
    ) -> Alignment:
        """Find how films were taken otherwise than at their angles, and bring them there: ``dvg_jax.alignment``.

        Args:
          xrays: as in a call, or with a margin, which comes into view where a film is moved.
          angles_deg, key, consistency: as in a call. The films of the result are in the model's order of views, which
            :meth:`view_order` gives.
          mode: ``rows``, by the sums of their rows alone, or ``model``, by the model's CT after that.
        """
        views, angles = self._checked(xrays, angles_deg, wide=True)
        if mode == "rows":
            return finite(ALIGNED, align(views, table_of(angles, 1), self.dvg.geometry))
        dvg = replace(self.dvg, consistency=self.consistency(consistency))
        key = jax.random.key(0) if key is None else key
        return finite(ALIGNED, dvg.align(self.variables, views, angles, key))

    def curves(self, ct: ArrayLike, xrays: ArrayLike, angles_deg: ArrayLike | Sequence[float]) -> FilmCurve:
        """Return the curve of each film that a CT explains it by, (1, V, n): see ``dvg_jax.film_curve``.

        Args:
          ct: the result, (D, H, W).
          xrays, angles_deg: as in a call.
        """
        views, angles = self._checked(xrays, angles_deg)
        lines = self.dvg.render(jnp.asarray(ct)[None, ..., None], angles, normalize=False)
        whole = whole_rays(PROJECTORS["default"], self.dvg.geometry, angles, 1)
        return finite("the films' curves", film_curves(lines, views, whole))

    def new_view(self, xrays: ArrayLike, angles_deg: ArrayLike | Sequence[float]) -> NewView | None:
        """Return DVG-Net's first CT and the views at ``dvg.new_angles`` rendered from it, or None."""
        if not self.dvg.new_angles or "new_view" not in self.variables:
            return None
        views, angles = self._checked(xrays, angles_deg)
        made = self.dvg.synthesize_view(self.variables, self.dvg.view_latent(self.variables, views, angles))
        return finite("the model's new view", made)

    def calibration(
        self, angles: tuple[float, ...], steps: int | None = None, sampler: str | None = None,
        consistency: str | None = None,
    ) -> Calibration | str:  # fmt: skip
        """Return the calibration of results made in this way, or why there is none; the arguments are a call's."""
        return usable(self.calibrated, self.as_asked(steps, sampler, consistency), angles)

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of the learned variables, 16 hexadecimal digits."""
        return fingerprint(self.variables)

    def sampler(self, steps: int | None = None, name: str | None = None) -> Sampler:
        """Return the model's sampler, with other steps or another name; raise UserError for an invalid one."""
        chosen = self.dvg.sampler if name is None else self.dvg.sampler.called(name)
        if steps is not None:
            chosen = replace(chosen, steps=steps)
            chosen.coefficients(self.dvg.schedule)
        return chosen

    def consistency(self, mode: str | None = None) -> str:
        """Return the model's mode of consistency, or another; raise UserError for one that it does not have."""
        mode = self.dvg.consistency if mode is None else mode
        if mode not in MODES:
            raise UserError(f"consistency is {mode!r}; allowed: {', '.join(MODES)}")
        if mode == "refine" and "refine" not in self.variables:
            raise UserError(
                "consistency is refine, and stage refine is not trained; allowed: none, films, or train it first "
                "(--config.consistency.mode=refine --config.stage=refine)"
            )
        return mode

    def as_asked(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        consistency: str | None = None,
        count: int = 1,
    ) -> DVG:
        """Return the method that draws ``count`` samples as a caller asks for; the other arguments are a call's.

        Raises:
          UserError: as :meth:`samples` does about these arguments.
        """
        dvg = replace(self.dvg, sampler=self.sampler(steps, sampler), consistency=self.consistency(consistency))
        if not dvg.use_diffusion and count > 1:
            raise UserError(f"samples is {count}; allowed: 1, since a model without diffusion draws nothing")
        return dvg

    def _checked(
        self, xrays: ArrayLike, angles_deg: ArrayLike | Sequence[float], wide: bool = False
    ) -> tuple[Views, tuple[float, ...]]:
        """Return the views as the method takes them, (1, V, h, w, 1), and their angles, both in the model's order.

        With ``wide`` they may have the margin of framed films.
        """
        order, detector = self.view_order(angles_deg), self.dvg.geometry.detector_shape
        views = np.asarray(xrays, np.float32)
        rows, columns = margin_of(detector)
        allowed = [(len(order), *detector)]
        if wide:
            allowed.append((len(order), detector[0] + sum(rows), detector[1] + sum(columns)))
        if views.shape not in allowed:
            raise UserError(f"X-rays have shape {views.shape}; allowed: {' or '.join(map(str, allowed))}")
        if not np.isfinite(views).all():
            raise UserError("X-rays hold values that are not finite; allowed: numbers")
        angles = _degrees(angles_deg)
        return minmax(jnp.asarray(views[list(order)]))[None, ..., None], tuple(angles[i] for i in order)

    def view_order(self, angles_deg: ArrayLike | Sequence[float]) -> tuple[int, ...]:
        """Return the index of the given view for each view of the model, paired by the angles in degrees alone.

        Both are sorted by angle: of all pairings this has the least differences.

        Raises:
          UserError: angles that the model was not trained for.
        """
        angles, trained, most = _degrees(angles_deg), self.dvg.angles, self.dvg.random_views
        rising = sorted(range(len(angles)), key=angles.__getitem__)
        if most and not 1 <= len(angles) <= most:
            raise UserError(f"angles are {angles}; allowed: 1 to {most} views, as the model was trained")
        if most:
            return tuple(rising)
        places = np.argsort(np.argsort(trained, kind="stable"), kind="stable")
        order = tuple(rising[place] for place in places) if len(angles) == len(trained) else ()
        if not order or not all(abs(angles[i] - b) <= ANGLE_TOLERANCE for i, b in zip(order, trained, strict=True)):
            raise UserError(
                f"angles are {angles}; allowed: {len(trained)} views within {ANGLE_TOLERANCE:g} degrees of {trained}, "
                "as the model was trained"
            )
        return order


def _degrees(angles_deg: ArrayLike | Sequence[float]) -> tuple[float, ...]:
    try:
        angles = tuple(float(a) for a in np.ravel(np.asarray(angles_deg)))
    except (TypeError, ValueError):
        raise UserError(f"angles are {angles_deg}; allowed: numbers, in degrees") from None
    if not np.isfinite(angles).all():
        raise UserError(f"angles are {angles}; allowed: finite numbers, in degrees")
    return angles


def sample_keys(seed: int, count: int) -> Key:
    """Return (K,) keys of ``seed``, ``seed + 1`` and so on, so that each sample can be drawn again alone."""
    return jnp.stack([jax.random.key(seed + k) for k in range(count)])


def _shifted(progress: Progress | None, call: int, calls: int) -> Progress | None:
    """Return a callback that reports one of several equal calls as a part of all."""
    if progress is None:
        return None
    return lambda done, total: progress(call * total + done, calls * total)


def load_reconstructor(workdir: str | Path) -> Reconstructor:
    """Load the model that ``train.py`` or ``torch_import`` wrote to ``workdir``.

    Its calibration is read too. The refiner is part of it where it is trained from the stages that are there.

    Raises:
      UserError: the folder contains no config, a stage is missing, or a checkpoint cannot be read.
    """
    workdir = Path(workdir)
    config = load_config(workdir)
    names = (*estimate_stages(config), *(("refine",) if has_refiner(config, workdir) else ()))
    variables = load_stages(config, workdir, names, wanted_by="reconstruction")
    return Reconstructor(config, build_dvg(config), variables, load_calibration(config, workdir))
