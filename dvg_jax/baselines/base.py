"""Define a comparison method, and turn it into a stage of the one training loop.

    views (B, V, h, w, 1) --prepare--> example["x"] --network--> CT (B, D, H, W, 1), or a view

A file of this folder defines its network, its task where that is not :class:`Regression`, and ``build(config, dvg)``.
X-rays come from ``dvg.render`` and V_bp from ``dvg.lift``, so every method has the inputs of the DVG stages.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dvg_jax.dvg import DVG
from dvg_jax.finite import clipped
from dvg_jax.metrics import psnr_volume, view_metrics
from dvg_jax.networks.init import TORCH_DEFAULT, KernelRule, init_variables
from dvg_jax.shapes import Key, NewViews, Variables, VariablesByGroup, VariablesByStage, Views, Volume, Volumes
from dvg_jax.stages.base import Example, Metrics, Stage, Task

DISTANCES: dict[str, Callable[[Array], Array]] = {"mse": lambda e: jnp.mean(e**2), "l1": lambda e: jnp.mean(jnp.abs(e))}


@dataclass(frozen=True)
class Baseline:
    """Describe a comparison method.

    Attributes:
      name: of its stage and its section in ``config.baselines``.
      title: in the paper's tables.
      prepare: (frozen variables, CT, key) -> example; a method that draws nothing ignores the key.
      predict: (variables by stage, views (B, V, h, w, 1) in [0, 1], key) -> CT in [0, 1]; for a view synthesiser, the
        views at ``dvg.new_angles``. A method that draws nothing ignores the key.
      requires: stages whose variables ``prepare`` and ``predict`` read besides its own.
      makes_views: it is a view synthesiser.
      in_view_table: projections of its CT are compared with synthesised views, as in the paper's Table VI.
    """

    name: str
    title: str
    task: Task
    prepare: Callable[[VariablesByStage, Volumes, Key], Example]
    predict: Callable[[VariablesByStage, Views, Key], Volumes | NewViews]
    requires: tuple[str, ...] = ()
    makes_views: bool = False
    in_view_table: bool = False


@dataclass(frozen=True)
class Regression:
    """Train a network that maps ``example["x"]`` to ``example["y"]``, by mean squared or mean absolute error.

    The network is called as ``network(x, train)``; its collections besides ``params`` (running statistics) are the
    task's state. Dropout draws from the step's key.
    """

    network: nn.Module
    kernels: KernelRule = TORCH_DEFAULT
    distance: str = "mse"

    def constants(self, frozen: VariablesByStage) -> Variables:
        return {}

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        variables = init_variables(self.network, key, example["x"], kernels=self.kernels)
        return {"model": variables.pop("params")}, variables

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: Array,
    ) -> tuple[Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return the distance of prediction and target: see :meth:`dvg_jax.stages.base.Task.loss`.

        Args:
          example: ``x``, the network's input, and ``y``, its target.
        """
        y, model_state = train_pass(self.network, params["model"], model_state, example["x"], key)
        return DISTANCES[self.distance](y - example["y"]), (model_state, {})


def train_pass(
    network: nn.Module, params: Variables, model_state: Variables, x: Array, key: Key
) -> tuple[Array, Variables]:
    """Return a network's output in training, and its running statistics afterwards.

    Args:
      network: is called as ``network(x, train)``.
      params: of the network.
      model_state: its running statistics.
      x: its input.
      key: of the dropout.
    """
    variables = {"params": params, **model_state}
    y, changed = network.apply(variables, x, train=True, rngs={"dropout": key}, mutable=list(model_state))
    return y, dict(changed)


@partial(jax.jit, static_argnums=0)
def evaluate_network(network: nn.Module, variables: Variables, x: Array) -> Array:
    """Return a trained network's output, clipped to [0, 1].

    Args:
      network: is called as ``network(x)``.
      variables: parameters and running statistics.
      x: its input.
    """
    return clipped(network.apply(variables, x), 0, 1)


def from_views(
    name: str,
    title: str,
    task: Task,
    network: nn.Module,
    dvg: DVG,
    makes_views: bool = False,
    in_view_table: bool = False,
) -> Baseline:
    """Build a method whose network maps the views themselves to the CT or to the new view.

    Args:
      name: of its stage and its section in ``config.baselines``.
      title: in the paper's tables.
      task: trains the network.
      network: is called as ``network(views)``.
      dvg: gives geometry and views.
      makes_views: the network predicts the views at ``dvg.new_angles``.
      in_view_table: projections of its CT are compared with synthesised views.
    """

    def prepare(frozen: VariablesByStage, ct: Volumes, key: Key) -> Example:
        return {"x": dvg.render(ct, dvg.angles), "y": dvg.render(ct, dvg.new_angles) if makes_views else ct}

    def predict(variables: VariablesByStage, views: Views, key: Key) -> Volumes | NewViews:
        return evaluate_network(network, variables[name], views)

    return Baseline(name, title, task, prepare, predict, makes_views=makes_views, in_view_table=in_view_table)


def export(params: Variables, model_state: Variables, examples: Iterator[Example]) -> Variables:
    """Return a stage's variables: all those of the network.

    Args:
      params: of the network.
      model_state: its running statistics.
      examples: are not needed.
    """
    return {"params": params, **model_state}


def as_stage(baseline: Baseline, render: Callable[[Volumes], tuple[Views, Volumes | NewViews]]) -> Stage:
    """Turn a method into a stage of the training loop; ``render`` returns a CT's input views and the target."""

    def show(variables: VariablesByStage, ct: Volumes, key: Key) -> tuple[Metrics, dict[str, Volume]]:
        views, truth = render(ct)
        result = baseline.predict(variables, views, key)
        if baseline.makes_views:
            return {"psnr": jnp.asarray(view_metrics(truth[0, 0, ..., 0], result[0, 0, ..., 0])["psnr"])}, {}
        psnr = jnp.mean(jax.vmap(psnr_volume)(truth[..., 0], result[..., 0]))
        return {"psnr": psnr}, {"truth": ct[0, ..., 0], baseline.title: result[0, ..., 0]}

    return Stage(baseline.name, baseline.task, baseline.requires, baseline.prepare, export, show)
