"""Define an unrolled regressor: the mean training CT, corrected by networks that see where it misses the films.

It is this project's refiner (``stages/refine.py``) without DVG: what DVG is worth is what it adds to this. Such
networks are known as learned primal-dual or unrolled gradient schemes (Adler and Oktem 2018, arXiv 1707.06474).
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from dvg_jax.baselines.base import Baseline
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.finite import clipped
from dvg_jax.networks.refiner import Refiner
from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage, Views, Volumes
from dvg_jax.stages.base import Example, Metrics
from dvg_jax.stages.refine import RefineWeights, init_rounds, rounds_loss

NAME = "unrolled"


@dataclass(frozen=True)
class UnrolledTask:
    """Train the networks, and average the CTs that they are shown.

    The state ``start`` contains the mean CT so far and the number of CTs in it. Training begins with a rough mean and
    soon has a good one.
    """

    dvg: DVG
    weights: RefineWeights

    def constants(self, frozen: VariablesByStage) -> Variables:
        return self.weights.constants()

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        params = init_rounds(self.dvg, key, example["ct"], self.dvg.angles)
        mean = jnp.zeros(example["ct"].shape[1:])
        return {"model": params}, {"start": {"mean": mean, "count": jnp.zeros((), jnp.float32)}}

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: Array,
    ) -> tuple[Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the error after each round: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``ct`` (B, D, H, W, 1).
        """
        ct, mean, count = example["ct"], *(model_state["start"][name] for name in ("mean", "count"))
        count += len(ct)
        mean += jnp.sum(ct - mean, axis=0) / count
        key_films, key_slice = jax.random.split(key)
        views = self.dvg.films(ct, self.dvg.angles, key_films)
        rounds = self.dvg.refine(params["model"], start_from(mean, ct), views, self.dvg.angles)
        loss, metrics = rounds_loss(rounds, ct, self.weights, constants, key_slice)
        return loss, ({"start": {"mean": mean, "count": count}}, metrics)


def start_from(mean: Array, like: Array) -> Volumes:
    """Return the mean CT (D, H, W, 1) for each row of ``like``."""
    return jnp.broadcast_to(mean, (len(like), *mean.shape))


def build(config: ConfigDict, dvg: DVG) -> Baseline:
    """Build the method from ``config.baselines.unrolled``."""
    settings = config.baselines.unrolled
    if config.size % (least := 2 ** len(settings.network.widths)):
        raise UserError(f"config.size is {config.size}; allowed for unrolled: multiples of {least}")
    refiner = Refiner(**settings.network, dtype=jnp.dtype(config.dtype))
    own = replace(dvg, refinement=replace(dvg.refinement, refiner=refiner, rounds=settings.rounds))

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        return {"ct": ct}

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Volumes:
        learned = variables[NAME]
        return clipped(
            own.refine(learned["params"], start_from(learned["start"]["mean"], views), views, dvg.angles)[-1], 0, 1
        )

    task = UnrolledTask(own, RefineWeights(**settings.loss))
    return Baseline(NAME, "Unrolled", task, prepare, predict, in_view_table=True)
