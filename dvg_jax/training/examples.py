"""Open a stage's examples, in one of three forms that give the same bits.

    made in the step    CTs are read; the compiled step makes their examples, and may draw their views
    made ahead of it    CTs are read; frozen stages make their examples on the way to the step
    kept                examples are read, all made before the first step: on disk where frozen stages make them,
                        in memory otherwise

Frozen encoders see one case at a time. So an example has the same bits whether it is computed for the step that needs
it, with any other cases, or once for all steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dvg_jax.config import stage_field, stage_settings
from dvg_jax.data.opening import is_endless
from dvg_jax.data.pipeline import evaluation_batches, training_iterator
from dvg_jax.data.sources import ArraySource, Source
from dvg_jax.errors import UserError
from dvg_jax.keys import named
from dvg_jax.shapes import Key, VariablesByStage
from dvg_jax.stages.base import Example, Prepare, Stage
from dvg_jax.training import sharding
from dvg_jax.training.kept import Preparation, kept_examples, origin


def made_ahead(config: ConfigDict, stage: Stage) -> bool:
    """Tell whether frozen stages make the stage's examples and make the same ones at every step."""
    return bool(stage.requires) and not config.random_views


def check_cache(config: ConfigDict, name: str) -> None:
    """Refuse to keep a stage's examples where they have no end or their views are drawn again at each step.

    Raises:
      UserError: the config asks for it.
    """
    cached, data = stage_settings(config, name).train.cache, config.data
    if cached and is_endless(data.source, data.train_count, data.augment):
        raise UserError(
            f"config.{stage_field(name)}.train.cache is True with data.train_count 0; "
            "allowed: False, since examples without end cannot all be made before the first step"
        )
    if config.random_views and cached and name != "ct_vqgan":
        raise UserError(
            f"config.{stage_field(name)}.train.cache is True with random_views {config.random_views}; "
            "allowed: False, since views are drawn at each step"
        )


@dataclass(frozen=True)
class Given:
    """Hold what a stage's examples are made from.

    Attributes:
      frozen: the variables of the stages that it requires, on every device of ``mesh``.
      cts: the training set.
      key: of the stage.
      between: is called between two cases or batches where examples are computed; may raise to stop there.
    """

    config: ConfigDict
    stage: Stage
    frozen: VariablesByStage
    cts: Source
    mesh: Mesh
    key: Key
    between: Callable[[], None]


class Examples:
    """Read batches from a source of examples: the kept form, and the base of the other two.

    With several processes each reads its own rows of every batch.

    Attributes:
      prepare: makes the example inside the step; None where :meth:`next` returns examples.
      place: position in the sequence of batches; JSON-able, and the same in all processes.
    """

    prepare: Prepare | None = None

    def __init__(self, given: Given, source: Source) -> None:
        self._given, self._source = given, source
        batch_size = stage_settings(given.config, given.stage.name).train.batch_size
        self._batches = training_iterator(
            source, batch_size, given.config.seed, jax.process_index(), jax.process_count()
        )

    @property
    def frozen(self) -> VariablesByStage:
        """Return the variables that ``prepare`` reads; a step without it must not depend on its examples' origin."""
        return self._given.frozen if self.prepare else {}

    @property
    def place(self) -> dict[str, Any]:
        return self._batches.get_state()

    @place.setter
    def place(self, place: dict[str, Any]) -> None:
        self._batches.set_state(place)

    def next(self) -> Example:
        """Return this process's rows of the next batch, the input of a step."""
        return _without_index(self._rows(next(self._batches)))

    def first(self) -> Example:
        """Return the example of the next batch without advancing the sequence.

        Every row is on every device, so that the initial state does not depend on the number of devices.
        """
        place = self.place
        batch = self._rows(next(self._batches))
        self.place = place
        if (mesh := self._given.mesh).size > 1:
            batch = jax.device_put(sharding.put_batch(mesh, batch), sharding.replicated(mesh))
        return _without_index(self._example(batch))

    def in_order(self, batch_size: int) -> Iterator[Example]:
        """Yield the examples of all cases, in order; the last batch is padded."""
        for batch in evaluation_batches(self._source, batch_size):
            self._given.between()
            yield self._example(self._rows(batch))

    def _rows(self, batch: Example) -> Example:
        """Turn a batch that was read into the input of a step."""
        return batch

    def _example(self, batch: Example) -> Example:
        """Turn the input of a step into an example, outside of a step."""
        return jax.tree.map(jnp.asarray, batch)


class MadeAhead(Examples):
    """Read CTs, and make their examples by frozen stages on the way to the step."""

    def __init__(self, given: Given) -> None:
        super().__init__(given, given.cts)
        self._preparation = Preparation(given.stage, given.frozen, given.mesh)

    def _rows(self, batch: Example) -> Example:
        return self._preparation(batch["ct"])


class MadeInStep(Examples):
    """Read CTs, and leave their examples to the step."""

    def __init__(self, given: Given) -> None:
        super().__init__(given, given.cts)
        self.prepare = given.stage.prepare

    def _example(self, batch: Example) -> Example:
        return _of_cts(self._given, batch)


def open_examples(given: Given, folder: Path) -> Examples:
    """Open a stage's examples in the form that its settings ask for.

    Examples that are kept are computed here, unless ``folder`` has them.
    """
    ahead = made_ahead(given.config, given.stage)
    if not stage_settings(given.config, given.stage.name).train.cache:
        return MadeAhead(given) if ahead else MadeInStep(given)
    if not ahead:
        return Examples(given, _in_memory(given))
    facts = origin(given.config, given.stage, given.frozen, given.cts)
    preparation = Preparation(given.stage, given.frozen, given.mesh)
    return Examples(given, kept_examples(folder, preparation, given.cts, facts, given.between))


def _in_memory(given: Given) -> Source:
    """Compute the examples of all cases."""
    parts = []
    for batch in evaluation_batches(given.cts, given.config.evaluate.batch_size):
        given.between()
        real = batch["mask"] > 0
        parts.append(jax.tree.map(lambda x, real=real: np.asarray(x)[real], _of_cts(given, batch)))
    return ArraySource(jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


def _of_cts(given: Given, batch: Example) -> Example:
    """Make examples outside of a step; random choices depend on the batch's first case alone.

    Devices share the work where the batch divides by them; every device gets the whole result.
    """
    mesh = given.mesh
    key = jax.random.fold_in(named(given.key, "examples"), batch["index"][0])
    example = given.stage.prepare(given.frozen, sharding.share_out(mesh, batch["ct"]), key)
    return example if mesh.size == 1 else jax.device_put(example, sharding.replicated(mesh))


def _without_index(batch: Example) -> Example:
    return {name: value for name, value in batch.items() if name != "index"}
