"""Define a stage: a pure loss over pure variables, and its inputs from the stages before it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from dvg_jax.shapes import Key, Variables, VariablesByGroup, VariablesByStage, Volume, Volumes

Example = dict[str, Any]
"""Arrays with a leading batch axis that a loss needs."""

Metrics = dict[str, jax.Array]

Prepare = Callable[[VariablesByStage, Volumes, Key], Example]
"""(frozen variables by stage, CTs, key) -> example."""


@runtime_checkable
class Task(Protocol):
    """Define what a stage learns. Tasks are hashable, so that equal tasks of different stages share compiled code."""

    def constants(self, frozen: VariablesByStage) -> Variables:
        """Return arrays that the loss needs and that are not trained now: LPIPS weights, or those of a frozen stage."""

    def init(self, key: Key, example: Example) -> tuple[VariablesByGroup, Variables]:
        """Return parameters by optimiser group, ``model`` for later stages, and the state that has no gradient."""

    def loss(
        self, params: VariablesByGroup, model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Return a scalar loss, the next model state and the metrics to log.

        Args:
          params: by optimiser group.
          model_state: the state that is not differentiated.
          constants: from :meth:`constants`.
          example: a batch, as :attr:`Stage.prepare` returns it.
          key: of the step.
          step: number of the step, a scalar.
        """


@dataclass(frozen=True)
class Stage:
    """Combine a task with the stages that it requires, its examples and its result.

    Attributes:
      requires: stages whose variables ``prepare`` reads.
      prepare: makes the example. It is pure, so that it may be computed once or at every step; the key
        decides what is drawn, such as views.
      export: (parameters, model state, iterator over examples) -> the stage's variables.
      show: (variables of all stages so far, CT, key) -> (metrics, named volumes of the first case), for the log.
    """

    name: str
    task: Task
    requires: tuple[str, ...]
    prepare: Prepare
    export: Callable[[Variables, Variables, Any], Variables]
    show: Callable[[VariablesByStage, Volumes, Key], tuple[Metrics, dict[str, Volume]]]
