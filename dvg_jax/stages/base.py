"""What a stage is: a pure loss over pure variables, and what it takes from the stages before it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from dvg_jax.shapes import Key, Variables, VariablesByStage, Volume, Volumes

Example = dict[str, Any]
"""Arrays with a leading batch axis that a loss needs."""

Metrics = dict[str, jax.Array]


@runtime_checkable
class Task(Protocol):
    """What is learned. Hashable, so that equal tasks share compiled code whatever stage they serve."""

    def constants(self) -> Variables:
        """Arrays that the loss needs and nobody trains, such as LPIPS weights."""

    def init(self, key: Key, example: Example) -> tuple[dict[str, Variables], Variables]:
        """Parameters by optimiser group, ``model`` for later stages, and the state that is not differentiated."""

    def loss(
        self, params: dict[str, Variables], model_state: Variables, constants: Variables, example: Example, key: Key,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:  # fmt: skip
        """Scalar loss, the next model state and what to log."""


@dataclass(frozen=True)
class Stage:
    """A task in its place: what is frozen before it, what its examples are, what it hands on.

    Attributes:
      requires: stages whose variables ``prepare`` reads.
      prepare: (frozen variables, CT, key) -> example. Pure, so that it may be computed once or at every step; the key
        decides what is drawn, such as views.
      export: (parameters, model state, iterator over examples) -> the stage's variables.
      show: (variables of all stages so far, CT, key) -> (metrics, named volumes of the first case), for the log.
    """

    name: str
    task: Task
    requires: tuple[str, ...]
    prepare: Callable[[VariablesByStage, Volumes, Key], Example]
    export: Callable[[Variables, Variables, Any], Variables]
    show: Callable[[VariablesByStage, Volumes, Key], tuple[Metrics, dict[str, Volume]]]
