"""Take one training step, for every stage."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage
from dvg_jax.stages.base import Example, Metrics, Prepare, Task
from dvg_jax.training.optim import Recipe
from dvg_jax.training.sharding import Layout, place

PREPARING = 2**31 - 1
"""Folded into a step's key for random choices of its example, such as views."""


@struct.dataclass
class TrainState:
    """Hold all that changes while a stage is trained; ``ema`` is None where nothing is averaged."""

    step: jax.Array
    params: VariablesByGroup
    model_state: Variables
    opt_state: optax.OptState
    ema: Variables | None

    @property
    def model(self) -> Variables:
        """Return the parameters to use: the average where there is one."""
        return self.params["model"] if self.ema is None else self.ema


@dataclass(frozen=True)
class Step:
    """Select what a compiled training step depends on; equal steps of different stages share one program.

    Attributes:
      task: what is learned: the initial variables and the loss.
      recipe: the optimiser.
      prepare: makes the example inside the step; None where batches are examples already.
      layout: where the state is stored between steps; None leaves it where it is.
    """

    task: Task
    recipe: Recipe
    prepare: Prepare | None = None
    layout: Layout | None = None


class Fixed(NamedTuple):
    """Hold arrays that every step reads and none changes.

    Attributes:
      frozen: the variables that ``Step.prepare`` reads, by stage; empty without it.
      constants: of the task, such as LPIPS weights.
      key: of the stage; the number of the step is folded in.
    """

    frozen: VariablesByStage
    constants: Variables
    key: Key


def create(step: Step, key: Key, example: Example) -> TrainState:
    """Return the state before the first step, placed by ``step.layout``.

    Args:
      step: gives task, optimiser and layout.
      key: decides the weights.
      example: decides shapes, and may decide the codebook's first entries.
    """
    params, model_state = step.task.init(key, example)
    if step.layout is None:
        return _assemble(step.recipe, params, model_state)
    layout = step.layout
    params, model_state = place((params, model_state), layout.of((params, model_state)))
    where = layout.of(jax.eval_shape(partial(_assemble, step.recipe), params, model_state))
    return jax.jit(_assemble, static_argnums=0, out_shardings=where)(step.recipe, params, model_state)


def _assemble(recipe: Recipe, params: VariablesByGroup, model_state: Variables) -> TrainState:
    opt_state = recipe.optimizer(tuple(params)).init(params)
    # A copy: the step donates its buffers, and two leaves must not share one.
    ema = jax.tree.map(jnp.copy, params["model"]) if recipe.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state, ema)


@partial(jax.jit, static_argnames=("step",), donate_argnames=("state",))
def update(
    step: Step, state: TrainState, fixed: Fixed, batch: Example, rate: jax.Array, asked: jax.Array | None = None
) -> tuple[TrainState, Metrics]:
    """Take one training step.

    Over several devices the exchange is implicit. The batch is split, so XLA sums losses, gradients and statistics over
    the devices, all that comes at the end of the backward pass in one all-reduce (docs/scaling.md).

    Args:
      step: gives task, optimiser and layout; static in the compiled program.
      state: is donated: its buffers become those of the result.
      fixed: arrays that no step changes.
      batch: the example itself, or the CTs (B, D, H, W, 1) as ``ct`` from which ``step.prepare`` makes it.
      rate: the learning rate.
      asked: (B,), above 0 in the rows of a process that was asked to stop. The stop vote is its mean, a metric that is
        averaged together with the loss.

    Returns:
      The next state, and the metrics of this step.
    """
    key = jax.random.fold_in(fixed.key, state.step)
    example = batch
    if step.prepare is not None:
        example = step.prepare(fixed.frozen, batch["ct"], jax.random.fold_in(key, PREPARING))

    layout, recipe = step.layout, step.recipe
    params, model_state = state.params, state.model_state
    if layout is not None:
        params, model_state = layout.gather((params, model_state))

    def loss(params: VariablesByGroup) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        return step.task.loss(params, model_state, fixed.constants, example, key, state.step)

    (value, (model_state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    grads = grads if layout is None else layout.keep(grads)
    direction, opt_state = recipe.optimizer(tuple(state.params)).update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    count = state.step + 1
    ema = None if state.ema is None else _average(recipe, state.ema, params["model"], count)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads), **metrics}
    if asked is not None:
        metrics["asked"] = jnp.mean(asked)
    state = TrainState(count, params, model_state, opt_state, ema)
    return state if layout is None else layout.keep(state), metrics


def _average(recipe: Recipe, ema: Variables, params: Variables, step: jax.Array) -> Variables:
    keep = jnp.where(step < recipe.ema_start, 0.0, recipe.ema_decay)
    keep = jnp.where(step % recipe.ema_every, 1.0, keep)
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, ema, params)
