"""Define the noise schedule: the share of z_0 that is left after t steps."""

from dataclasses import dataclass

import numpy as np

from dvg_jax.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Compute the cosine schedule of ``timesteps`` steps (Nichol and Dhariwal 2021, offset 0.008); t counts from 0.

    All tables have shape (timesteps,) and are float64. A network's input is cast where it is used.
    """

    timesteps: int = 100
    offset: float = 0.008
    max_beta: float = 0.9999

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise UserError(f"timesteps is {self.timesteps}; allowed: 1 or more")

    @property
    def betas(self) -> np.ndarray:
        """Return the variance that step t adds: ``1 - f(t + 1) / f(t)``, at most ``max_beta``."""
        i = np.arange(self.timesteps + 1, dtype=np.float64)
        f = np.cos((i / self.timesteps + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        return np.clip(1 - f[1:] / f[:-1], 0, self.max_beta)

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """Return abar_t, the share of z_0's variance in z_t, from the clipped betas."""
        return np.cumprod(1 - self.betas)

    @property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """Return abar_{t-1}; 1 before the first step."""
        return np.append(1.0, self.alphas_cumprod[:-1])
