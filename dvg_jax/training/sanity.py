"""Say what a training can hardly mean, on stderr, and refuse what it cannot mean."""

import sys

import jax.numpy as jnp
import numpy as np
import optax

from dvg_jax.data.sources import Source
from dvg_jax.errors import UserError
from dvg_jax.stages.base import Metrics
from dvg_jax.training.optim import Training

LOOKED_AT = 4
"""Training CTs that are looked at: reading all of them would take as long as an epoch."""


def check_rate(rate: optax.Schedule, training: Training, field: str) -> None:
    """Refuse a schedule whose learning rate is not a finite number of 0 or more, at its ends or where it turns.

    Args:
      rate: of ``training``, compiled.
      training: has the steps.
      field: of the config, for the message.

    Raises:
      UserError: names the step.
    """
    last = training.steps - 1
    for step in sorted({0, min(training.warmup_steps, last), last // 2, last}):
        value = float(rate(jnp.int32(step)))
        if not 0 <= value < np.inf:
            raise UserError(f"{field}: the learning rate is {value} at step {step}; allowed: finite numbers from 0")


def say_constant(cts: Source, name: str) -> None:
    """Warn of training CTs that hold one value throughout, such as air.

    Args:
      cts: of the training.
      name: of the source, for the message.
    """
    count = min(len(cts), LOOKED_AT)
    values = [cts[i * len(cts) // count]["ct"] for i in range(count)]
    constant = [ct for ct in values if ct.min() == ct.max()]
    if constant:
        print(
            f"warning: {len(constant)} of {count} CTs looked at in config.data.source {name} have the value "
            f"{constant[0].flat[0]:g} in every voxel (0 is air): nothing can be learned from them",
            file=sys.stderr,
        )


def say_collapse(stage: str, metrics: Metrics) -> None:
    """Warn of a codebook of which the last batch has used one code; ``metrics`` are of that step."""
    if "perplexity" in metrics and float(metrics["perplexity"]) < 1 + 1e-3:
        print(
            f"warning: {stage}: one code of its codebook is used for everything in the last batch, whose latents "
            "then tell nothing apart",
            file=sys.stderr,
        )
