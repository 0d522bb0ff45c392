"""From noise to z_0 with a network that predicts z_0.

    z_T ~ N(0, I)
    for t = T-1 ... 0:   z0  = denoise(variables, condition, z, t)
                         z  <- a_t z0 + b_t z + sigma_t noise

One formula covers the paper's ancestral sampler (eta 1, every step) and DDIM (eta 0, any subset of steps): both draw
from the family of Song et al. 2021, Eq. (12), which shares the marginals of the trained process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from dvg_jax.diffusion.schedule import Schedule
from dvg_jax.errors import UserError
from dvg_jax.shapes import Key, Latent, Times

Denoiser = Callable[[Any, Latent, Times], Latent]
"""(arguments, z_t, t) -> z_0. ``arguments`` is any pytree: weights and condition."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class Coefficients(NamedTuple):
    """The reverse process as a table, each (steps,), in the order the steps are taken."""

    t: np.ndarray
    of_z0: np.ndarray
    of_z: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """How many steps, how much fresh noise, and the range z_0 is clipped to (None: not clipped)."""

    steps: int | None = None
    eta: float = 1.0
    clip: float | None = None

    def coefficients(self, schedule: Schedule) -> Coefficients:
        """The table of the reverse process on ``steps`` of the schedule's times, evenly spaced, T - 1 first."""
        steps = schedule.timesteps if self.steps is None else self.steps
        if not 1 <= steps <= schedule.timesteps:
            raise UserError(f"steps is {steps}; allowed: 1 to {schedule.timesteps}")
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}; allowed: 0 (DDIM) to 1 (ancestral)")
        t = np.round(np.linspace(schedule.timesteps - 1, 0, steps)).astype(np.int32)
        abar = schedule.alphas_cumprod[t]
        after = np.append(abar[1:], 1.0)
        variance = self.eta**2 * (1 - after) / (1 - abar) * (1 - abar / after)
        of_z = np.sqrt(np.maximum(1 - after - variance, 0) / (1 - abar))
        of_z0 = np.sqrt(after) - np.sqrt(abar) * of_z
        table = (a.astype(np.float32) for a in (of_z0, of_z, np.sqrt(variance)))
        return Coefficients(t, *table)


def add_noise(schedule: Schedule, z0: Latent, t: Times, noise: Latent) -> Latent:
    """z_t ~ q(z_t | z_0): ``sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise``, Eq. (4) of Ho et al. 2020."""
    abar = schedule.alphas_cumprod
    axes = (slice(None),) + (None,) * (z0.ndim - 1)
    keep = jnp.asarray(np.sqrt(abar), z0.dtype)[t][axes]
    spread = jnp.asarray(np.sqrt(1 - abar), z0.dtype)[t][axes]
    return keep * z0 + spread * noise


def reverse_step(row: Coefficients, z: Latent, z0: Latent, noise: Latent) -> Latent:
    """One step of the reverse process; ``row`` holds scalars."""
    return row.of_z0 * z0 + row.of_z * z + row.sigma * noise


def _denoise_and_step(
    denoise: Denoiser, clip: float | None, arguments: Any, key: Key, row: Coefficients, z: Latent
) -> Latent:
    z0 = denoise(arguments, z, jnp.full(z.shape[:1], row.t))
    if clip is not None:
        z0 = jnp.clip(z0, -clip, clip)
    return reverse_step(row, z, z0, _noise(key, row.t, z.shape))


def _noise(key: Key, t: ArrayLike, shape: tuple[int, ...]) -> Latent:
    """The noise of time ``t``; rows with keys of their own do not depend on the rows beside them."""
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, t), shape)
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, t), shape[1:]))(key)


_compiled_step = partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))(_denoise_and_step)


def sample(
    denoise: Denoiser,
    arguments: Any,
    key: Key,
    shape: tuple[int, ...],
    schedule: Schedule,
    sampler: Sampler,
    progress: Progress | None = None,
    scan: bool | None = None,
) -> Latent:
    """Draw z_0 of ``shape`` (B, d, h, w, c), float32.

    Args:
      denoise: predicts z_0; hashable and the same object from call to call, or it is compiled anew.
      key: the noise of time t is drawn from ``fold_in(key, t)`` and z_T from ``fold_in(key, timesteps)``, so a result
        depends on the key alone. B keys give each row the noise that its key gives a batch of one.
      progress: told of every step where steps are driven from Python.
      scan: one compiled ``lax.scan`` (True) or a compiled step driven from Python (False). The default takes the
        faster: a scan, except on a CPU, where XLA runs convolutions inside loops many times slower.
    """
    table = sampler.coefficients(schedule)
    z = _noise(key, schedule.timesteps, shape)
    if scan is None:
        scan = jax.default_backend() != "cpu"
    if scan:
        return _scan(denoise, sampler.clip, arguments, key, table, z)
    for leaf in jax.tree.leaves(arguments)[-1:]:
        # Placed as the step will place its result: otherwise the second step is compiled anew.
        z = jax.device_put(z, leaf.sharding)
    for i in range(len(table.t)):
        z = _compiled_step(denoise, sampler.clip, arguments, key, Coefficients(*(a[i] for a in table)), z)
        if progress is not None:
            progress(i + 1, len(table.t))
    return z


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))
def _scan(denoise: Denoiser, clip: float | None, arguments: Any, key: Key, table: Coefficients, z: Latent) -> Latent:
    def body(z: Latent, row: Coefficients) -> tuple[Latent, None]:
        return _denoise_and_step(denoise, clip, arguments, key, row, z), None

    return jax.lax.scan(body, z, table)[0]
