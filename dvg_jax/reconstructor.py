"""A trained folder as one function: X-rays in, CT out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from ml_collections import ConfigDict

from dvg_jax import config as configs
from dvg_jax.build import build_dvg, required_stages
from dvg_jax.diffusion.samplers import Progress
from dvg_jax.dvg import DVG, minmax
from dvg_jax.errors import UserError
from dvg_jax.shapes import Key, Variables, Volume
from dvg_jax.training.run import load_stages

ANGLE_TOLERANCE = 20.0
"""Degrees by which a view may differ from the angle that the model was trained for."""


class Reconstructor:
    """Calls a trained model; the first call compiles, later ones with the same angles and steps do not.

    Attributes:
      config: what the model was trained with.
      dvg: the method, with its geometry and angles.
      variables: what its stages have learned, on the device.
    """

    def __init__(self, config: ConfigDict, dvg: DVG, variables: dict[str, Variables]) -> None:
        self.config, self.dvg, self.variables = config, dvg, jax.device_put(variables)

    def __call__(
        self,
        xrays: Float[ArrayLike, "V h w"],
        angles_deg: Float[ArrayLike, "V"] | Sequence[float],
        key: Key | None = None,
        steps: int | None = None,
        progress: Progress | None = None,
    ) -> Volume:
        """Reconstruct one CT.

        Args:
          xrays: bright where dense, row 0 at the FOOT end as ``forward_project`` gives them and ``read_film`` reads
            them; h and w are the geometry's detector. Each is min-max normalised again.
          angles_deg: of each view about the foot-head axis, 0 frontal, 90 lateral; in the model's order.
          key: decides the sample; ``jax.random.key(0)`` unless given. The same key gives the same volume.
          steps: sampling steps, 1 to the model's timesteps; as trained unless given.

        Returns:
          (D, H, W), float32 in [0, 1]; ``intensity_to_hu`` turns it to HU.

        Raises:
          UserError: wrong number, size or angles of views, values that are not finite, steps out of range.
        """
        views, angles = self._check(xrays, angles_deg)
        dvg = replace(self.dvg, angles=angles)
        if steps is not None:
            sampler = replace(dvg.sampler, steps=steps)
            sampler.coefficients(dvg.schedule)
            dvg = replace(dvg, sampler=sampler)
        key = jax.random.key(0) if key is None else key
        return dvg.reconstruct(self.variables, minmax(views)[None, ..., None], key, progress)[0, ..., 0]

    def _check(self, xrays: ArrayLike, angles_deg: ArrayLike | Sequence[float]) -> tuple[jax.Array, tuple[float, ...]]:
        angles, detector = self.check_angles(angles_deg), self.dvg.geometry.detector_shape
        views = np.asarray(xrays, np.float32)
        if views.shape != (len(angles), *detector):
            raise UserError(f"X-rays have shape {views.shape}; allowed: {(len(angles), *detector)}")
        if not np.isfinite(views).all():
            raise UserError("X-rays hold values that are not finite; allowed: numbers")
        return jnp.asarray(views), angles

    def check_angles(self, angles_deg: ArrayLike | Sequence[float]) -> tuple[float, ...]:
        """The angles in degrees, if the model was trained for them; UserError otherwise."""
        angles = tuple(float(a) for a in np.ravel(np.asarray(angles_deg)))
        trained = self.dvg.angles
        far = [a for a, b in zip(angles, trained, strict=False) if abs(a - b) > ANGLE_TOLERANCE]
        if len(angles) != len(trained) or far:
            raise UserError(
                f"angles are {angles}; allowed: {len(trained)} views within {ANGLE_TOLERANCE:g} degrees of {trained}, "
                "in this order, as the model was trained"
            )
        return angles


def load_reconstructor(workdir: str | Path) -> Reconstructor:
    """The model that ``train.py`` or ``torch_import`` left in ``workdir``.

    Raises:
      UserError: the folder holds no config, a stage is missing, or a checkpoint cannot be read.
    """
    workdir = Path(workdir)
    config = configs.load(workdir / "config.json")
    dvg = build_dvg(config)
    variables = load_stages(config, workdir, required_stages(config), wanted_by="reconstruction")
    return Reconstructor(config, dvg, variables)
