"""One training step, for every stage."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dvg_jax.shapes import Key, Variables
from dvg_jax.stages.base import Example, Metrics, Task
from dvg_jax.training.optim import Recipe
from dvg_jax.training.sharding import Layout, place

PREPARING = 2**31 - 1
"""Folded into a step's key for what its example draws, such as views."""


@struct.dataclass
class TrainState:
    """All that changes while a stage is trained; ``ema`` is None where nothing is averaged."""

    step: jax.Array
    params: dict[str, Variables]
    model_state: Variables
    opt_state: optax.OptState
    ema: Variables | None

    @property
    def model(self) -> Variables:
        """The parameters to use: the average where there is one."""
        return self.params["model"] if self.ema is None else self.ema


def create(task: Task, recipe: Recipe, key: Key, example: Example, layout: Layout | None = None) -> TrainState:
    """The state before the first step, where ``layout`` wants it. The example may decide shapes and the codebook's
    first entries.
    """
    params, model_state = task.init(key, example)
    if layout is None:
        return _assemble(recipe, params, model_state)
    params, model_state = place((params, model_state), layout.of((params, model_state)))
    where = layout.of(jax.eval_shape(partial(_assemble, recipe), params, model_state))
    return jax.jit(_assemble, static_argnums=0, out_shardings=where)(recipe, params, model_state)


def _assemble(recipe: Recipe, params: dict[str, Variables], model_state: Variables) -> TrainState:
    opt_state = recipe.optimizer(tuple(params)).init(params)
    # A copy: the step donates its buffers, and two leaves must not share one.
    ema = jax.tree.map(jnp.copy, params["model"]) if recipe.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, opt_state, ema)


@partial(jax.jit, static_argnames=("task", "recipe", "prepare", "layout"), donate_argnames=("state",))
def update(
    task: Task,
    recipe: Recipe,
    prepare: Callable[[Any, Any, Any], Example] | None,
    state: TrainState,
    frozen: Variables,
    constants: Variables,
    batch: Example,
    key: Key,
    rate: jax.Array,
    layout: Layout | None = None,
    asked: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """One step. ``batch`` is the example itself, or the CT from which ``prepare`` makes it with the frozen stages.

    Over several devices nothing here says what is exchanged: the batch is split, so XLA sums losses, gradients and
    statistics over the devices, all that comes at the end of the backward pass in one all-reduce (docs/scaling.md).
    ``asked`` (B,), above 0 in the rows of a process that was asked to stop, is one more metric: its mean.
    """
    key = jax.random.fold_in(key, state.step)
    example = batch if prepare is None else prepare(frozen, batch["ct"], jax.random.fold_in(key, PREPARING))

    params, model_state = state.params, state.model_state
    if layout is not None:
        params, model_state = layout.gather((params, model_state))

    def loss(params: dict[str, Variables]) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        return task.loss(params, model_state, constants, example, key, state.step)

    (value, (model_state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    grads = grads if layout is None else layout.keep(grads)
    direction, opt_state = recipe.optimizer(tuple(state.params)).update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    step = state.step + 1
    ema = None if state.ema is None else _average(recipe, state.ema, params["model"], step)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads), **metrics}
    if asked is not None:
        metrics["asked"] = jnp.mean(asked)
    state = TrainState(step, params, model_state, opt_state, ema)
    return state if layout is None else layout.keep(state), metrics


def _average(recipe: Recipe, ema: Variables, params: Variables, step: jax.Array) -> Variables:
    keep = jnp.where(step < recipe.ema_start, 0.0, recipe.ema_decay)
    keep = jnp.where(step % recipe.ema_every, 1.0, keep)
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, ema, params)
