"""Sample z_0 from noise with a network that predicts z_0.

    z_T ~ N(0, I)
    for t = T-1 ... 0:   z0  = denoise(variables, condition, z, t)
                         z  <- a_t z0 + b_t z + sigma_t noise + c_t (z0 of the step before)

One formula covers three samplers, which differ in the table of a, b, c and sigma alone (``docs/sampling.md``):

    ancestral   the paper's: eta 1; all steps
    ddim        eta 0, any subset of steps. Both are of the family of Song et al. 2021, Eq. (12), which shares the
                marginals of the trained process; c is 0
    dpmpp_2m    DPM-Solver++ (2M), Lu et al. 2022, Algorithm 2: DDIM is the first order of its kind, and this the
                second. z0 is continued along a line through its last two values over lambda = log(alpha / sigma)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from dvg_jax.diffusion.schedule import Schedule
from dvg_jax.errors import UserError
from dvg_jax.finite import clipped
from dvg_jax.shapes import Key, Times

Samples = Float[Array, "B *z"]
"""Samples in rows: latents in the pipeline, volumes in a baseline."""


@runtime_checkable
class Denoiser(Protocol):
    """Define what predicts z_0. Programs are compiled for each value of it, so equal ones must compare as equal.

    Flax modules do. Functions made anew, and bound methods of equal objects, do not.
    """

    def predict(self, arguments: Any, z: Samples, t: Times) -> Samples:
        """Return z_0 of z_t. ``arguments`` is any pytree: weights and condition."""
        ...


Carry = tuple[Samples, Samples]
"""z, and the z_0 predicted at the step before; zeros at the first step."""

Progress = Callable[[int, int], None]
"""It is called with (steps done, steps in all)."""


SAMPLERS: dict[str, dict[str, Any]] = {
    "ancestral": {"eta": 1.0, "order": 1},
    "ddim": {"eta": 0.0, "order": 1},
    "dpmpp_2m": {"eta": 0.0, "order": 2},
}
"""Samplers by name."""


NOISE = -3.0
"""The lambda under which z_t counts as pure noise (abar below 0.0025): only the first step lies there."""


_BLOCKS = 10
"""A scan that shows its progress is run in so many blocks at least."""


class Coefficients(NamedTuple):
    """Hold the reverse process as a table, each (steps,), in the order of the steps."""

    t: np.ndarray
    of_z0: np.ndarray
    of_z: np.ndarray
    sigma: np.ndarray
    of_previous: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """Choose the steps of the reverse process.

    Attributes:
      steps: how many; None is every time of the schedule.
      eta: share of fresh noise, from 0 (DDIM) to 1 (ancestral).
      clip: z_0 is clipped to +-``clip`` at each step; None does not clip.
      order: in the step's length. 2 also uses the prediction of the step before, and draws no noise.
    """

    steps: int | None = None
    eta: float = 1.0
    clip: float | None = None
    order: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}; allowed: 0 (DDIM) to 1 (ancestral)")
        if self.order not in (1, 2) or (self.order == 2 and self.eta):
            raise UserError(f"order is {self.order} with eta {self.eta}; allowed: 1, or 2 with eta 0")

    def called(self, name: str) -> "Sampler":
        """Return the sampler of that name with these steps and this clipping; UserError for an unknown name."""
        if name not in SAMPLERS:
            raise UserError(f"sampler is {name!r}; allowed: {', '.join(SAMPLERS)}")
        return replace(self, **SAMPLERS[name])

    @property
    def name(self) -> str:
        """Return the name that :meth:`called` takes, or ``ddim`` with its eta where that is between the two."""
        own = {"eta": self.eta, "order": self.order}
        return next((name for name, fields in SAMPLERS.items() if fields == own), f"ddim, eta {self.eta:g}")

    def coefficients(self, schedule: Schedule) -> Coefficients:
        """Return the table of the reverse process on ``steps`` of the schedule's times, T - 1 first and 0 last.

        The times are evenly spaced, for the second order over lambda. The last step leads to abar = 1, where z is the
        network's z_0 itself.
        """
        steps = schedule.timesteps if self.steps is None else self.steps
        if not 1 <= steps <= schedule.timesteps:
            raise UserError(f"steps is {steps}; allowed: 1 to {schedule.timesteps}")
        even = np.linspace(schedule.timesteps - 1, 0, steps)
        t = np.round(even if self.order == 1 else _even_in_lambda(schedule, steps)).astype(np.int32)
        abar = schedule.alphas_cumprod[t]
        after = np.append(abar[1:], 1.0)
        variance = self.eta**2 * (1 - after) / (1 - abar) * (1 - abar / after)
        of_z = np.sqrt(np.maximum(1 - after - variance, 0) / (1 - abar))
        of_z0 = np.sqrt(after) - np.sqrt(abar) * of_z
        ahead = _extrapolation(abar) if self.order == 2 else np.zeros(steps)
        columns = (of_z0 * (1 + ahead), of_z, np.sqrt(variance), -of_z0 * ahead)
        return Coefficients(t, *(column.astype(np.float32) for column in columns))


def log_snr(abar: np.ndarray) -> np.ndarray:
    """Return lambda = log(alpha / sigma), half the logarithm of the signal-to-noise ratio."""
    return 0.5 * np.log(abar / (1 - abar))


def _even_in_lambda(schedule: Schedule, steps: int) -> np.ndarray:
    """Return different times that divide lambda as evenly as whole numbers can, from ``NOISE`` on; T - 1 is first."""
    lam = log_snr(schedule.alphas_cumprod)
    wanted = np.linspace(max(NOISE, lam[-1]), lam[0], steps)
    found = np.abs(lam[:, None] - wanted).argmin(axis=0)
    found[0] = schedule.timesteps - 1
    # Near t = 0 neighbours are farther apart in lambda than the wanted places: those move up to the next free times.
    left = np.arange(steps)[::-1]
    free = np.maximum.accumulate((found - left)[::-1])[::-1]
    return left + np.clip(free, 0, schedule.timesteps - steps)


def _extrapolation(abar: np.ndarray) -> np.ndarray:
    """Return how far each step extrapolates, as a share of the way from the z_0 before: 1 / (2 r) of Algorithm 2.

    It is 0 at the first step, which has no z_0 before it, and at the last, whose way in lambda is infinite.
    """
    way = np.diff(log_snr(abar))
    share = np.zeros(len(abar))
    share[1:-1] = way[1:] / (2 * way[:-1])
    return share


def add_noise(schedule: Schedule, z0: Samples, t: Times, noise: Samples) -> Samples:
    """Sample z_t ~ q(z_t | z_0): ``sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise``, Eq. (4) of Ho et al. 2020.

    Args:
      schedule: gives abar_t.
      z0: clean latents, (B, d, h, w, c).
      t: times, (B,), from 0.
      noise: standard normal, of the shape of ``z0``.
    """
    abar = schedule.alphas_cumprod
    axes = (slice(None),) + (None,) * (z0.ndim - 1)
    keep = jnp.asarray(np.sqrt(abar), z0.dtype)[t][axes]
    spread = jnp.asarray(np.sqrt(1 - abar), z0.dtype)[t][axes]
    return keep * z0 + spread * noise


def reverse_step(row: Coefficients, z: Samples, z0: Samples, previous: Samples, noise: Samples) -> Samples:
    """Take one step of the reverse process.

    Args:
      row: the coefficients of this step, scalars.
      z: z_t, (B, d, h, w, c).
      z0: the network's prediction from ``z``.
      previous: its prediction at the step before.
      noise: standard normal, of the shape of ``z``.
    """
    # The previous z_0 comes last: where its weight is 0 it then changes no bit of the sum.
    return row.of_z0 * z0 + row.of_z * z + row.sigma * noise + row.of_previous * previous


def _denoise_and_step(
    denoiser: Denoiser, clip: float | None, arguments: Any, key: Key, row: Coefficients, carry: Carry
) -> Carry:
    z, previous = carry
    z0 = denoiser.predict(arguments, z, jnp.full(z.shape[:1], row.t))
    if clip is not None:
        z0 = clipped(z0, -clip, clip)
    return reverse_step(row, z, z0, previous, _noise(key, row.t, z.shape)), z0


def _noise(key: Key, t: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Draw the noise of time ``t``; a row with a key of its own does not depend on the other rows."""
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, t), shape)
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, t), shape[1:]))(key)


_compiled_step = partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))(_denoise_and_step)


def sample(
    denoiser: Denoiser,
    arguments: Any,
    key: Key,
    shape: tuple[int, ...],
    schedule: Schedule,
    sampler: Sampler,
    progress: Progress | None = None,
    scan: bool | None = None,
) -> Samples:
    """Draw z_0 by the reverse process, float32.

    Args:
      denoiser: predicts z_0.
      arguments: of its ``predict``: weights and condition.
      key: the noise of time t is drawn from ``fold_in(key, t)`` and z_T from ``fold_in(key, timesteps)``, so a result
        depends on the key alone. B keys give each row the noise that its key gives a batch of one.
      shape: of z_0, (B, d, h, w, c).
      schedule: the noise schedule of the training.
      sampler: chooses the steps.
      progress: is called after every step that Python runs, and after every block of steps that are compiled as one.
        Inside a larger compiled program it is not called.
      scan: one compiled ``lax.scan`` (True) or a compiled step called from Python (False). The default takes the
        faster on the devices that hold the arguments: a scan, except on a CPU, where XLA runs convolutions inside loops
        many times slower.

    Raises:
      UserError: the sampler has more steps than the schedule has times.
    """
    table = sampler.coefficients(schedule)
    z = _noise(key, schedule.timesteps, shape)
    leaves = [leaf for leaf in jax.tree.leaves((key, arguments)) if isinstance(leaf, Array)]
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if scan is None:
        scan = _platform([] if traced else leaves) != "cpu"
    if scan and (progress is None or traced):
        return _scan(denoiser, sampler.clip, arguments, key, table, z)
    carry = (z, jnp.zeros_like(z))
    if leaves and not traced:
        # Place it as the step will place its result: otherwise the second step is compiled again.
        carry = jax.device_put(carry, leaves[-1].sharding)
    steps = len(table.t)
    advance, length = (_block, _block_length(steps)) if scan else (_compiled_step, 1)
    for done in range(length, steps + 1, length):
        rows = (column[done - length : done] if scan else column[done - 1] for column in table)
        carry = advance(denoiser, sampler.clip, arguments, key, Coefficients(*rows), carry)
        if progress is not None and not traced:
            jax.block_until_ready(carry)
            progress(done, steps)
    return carry[0]


def _platform(leaves: list[Array]) -> str:
    """Return the platform on which arrays live; without any, where new ones would."""
    if leaves:
        return next(iter(leaves[-1].devices())).platform
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return getattr(device, "platform", device) or jax.default_backend()


def _block_length(steps: int) -> int:
    """Return the length of the equal blocks, 10 or more of them, in which a scan is run to show its progress."""
    return max((length for length in range(1, steps // _BLOCKS + 1) if steps % length == 0), default=1)


def _steps(denoiser: Denoiser, clip: float | None, arguments: Any, key: Key, rows: Coefficients, carry: Carry) -> Carry:
    def body(carry: Carry, row: Coefficients) -> tuple[Carry, None]:
        return _denoise_and_step(denoiser, clip, arguments, key, row, carry), None

    return jax.lax.scan(body, carry, rows)[0]


_block = partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))(_steps)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))
def _scan(denoiser: Denoiser, clip: float | None, arguments: Any, key: Key, table: Coefficients, z: Samples) -> Samples:
    return _steps(denoiser, clip, arguments, key, table, (z, jnp.zeros_like(z)))[0]
