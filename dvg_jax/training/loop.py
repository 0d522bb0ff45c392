"""Train one stage: the same loop for all of them."""

import json
import math
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dvg_jax.build import build_source
from dvg_jax.config import BASELINES, STAGES, stage_field, stage_settings
from dvg_jax.data.pipeline import evaluation_batches, training_iterator
from dvg_jax.data.sources import ArraySource, Source
from dvg_jax.errors import UserError
from dvg_jax.shapes import Variables
from dvg_jax.stages.base import Example, Stage
from dvg_jax.training import sharding
from dvg_jax.training.checkpoint import Checkpoints, save_model
from dvg_jax.training.examples import Preparation, kept_examples, origin, prepared_ahead
from dvg_jax.training.log import RunLog
from dvg_jax.training.optim import Training
from dvg_jax.training.state import TrainState, create, update
from dvg_jax.training.stop import StopRequest
from dvg_jax.viz import comparison_panel

EXPORT_CASES = 256
"""How many training examples a finished stage's statistics are taken from, at most."""


class StageRun:
    """One stage being trained: goes on from its last checkpoint if there is one.

    Args:
      variables: what the stages before have learned, by name; all of ``stage.requires``.
      workdir: gets ``<stage>/checkpoints``, ``model``, ``metrics.jsonl`` and ``pictures``, once :meth:`run` is called.

    Raises:
      UserError: data or config cannot work.
    """

    def __init__(self, config: ConfigDict, stage: Stage, variables: dict[str, Variables], workdir: Path) -> None:
        self.config, self.stage, self.folder = config, stage, workdir / stage.name
        self.training = Training(**stage_settings(config, stage.name).train)
        self.ahead = prepared_ahead(config, stage, self.training.cache)
        self.recipe, self.rate = self.training.recipe, jax.jit(self.training.rate())
        self.mesh = sharding.data_mesh(self.training.batch_size, f"config.{stage_field(stage.name)}.train.batch_size")
        self.key = jax.random.fold_in(jax.random.key(config.seed), (*STAGES, *BASELINES).index(stage.name))
        replicated = sharding.replicated(self.mesh)
        self.variables = jax.device_put(variables, replicated)
        self.frozen = {name: self.variables[name] for name in stage.requires}
        self.constants = jax.device_put(stage.task.constants(), replicated)
        self.source = build_source(config, "train")
        self.test = build_source(config, "test")

    def _examples(self) -> Source:
        """All examples of the training set, computed once; what frozen stages give is kept in the folder."""
        if self.ahead:
            facts = origin(self.config, self.stage, self.frozen, self.source)
            return kept_examples(self.folder / "examples", self.preparation, self.source, facts)
        rows = []
        for batch in evaluation_batches(self.source, self.config.evaluate.batch_size):
            example = self._prepare(batch)
            rows.append(jax.tree.map(lambda x, m=batch["mask"] > 0: np.asarray(x)[m], example))
        return ArraySource(jax.tree.map(lambda *parts: np.concatenate(parts), *rows))

    @cached_property
    def preparation(self) -> Preparation:
        """The frozen stages, case by case."""
        return Preparation(self.stage, self.frozen, self.mesh)

    def _prepare(self, batch: Example) -> Example:
        """What the stage learns from, outside of a step; what is drawn depends on the batch's first case alone."""
        if self.ahead:
            return self.preparation(batch["ct"])
        return self.stage.prepare(self.frozen, batch["ct"], jax.random.fold_in(self.key, batch["index"][0]))

    def _step(self, state: TrainState, batch: Example) -> tuple[TrainState, dict[str, jax.Array]]:
        ready = self.training.cache or self.ahead
        prepare = None if ready else self.stage.prepare
        # Where examples are ready the compiled step must not depend on what made them.
        frozen = {} if ready else self.frozen
        batch = {name: value for name, value in batch.items() if name != "index"}
        rate = self.rate(state.step)
        return update(self.stage.task, self.recipe, prepare, state, frozen, self.constants, batch, self.key, rate)

    def _start(self, saved: Checkpoints, data: Any) -> TrainState:
        """A new state, or the one last saved; ``data`` is left at the place that belongs to it."""
        place = data.get_state()
        batch = next(data)
        data.set_state(place)
        example = batch if self.training.cache else self._prepare(batch)
        example.pop("index", None)
        key = jax.random.fold_in(self.key, self.training.steps)

        state = jax.device_put(create(self.stage.task, self.recipe, key, example), sharding.replicated(self.mesh))
        latest = saved.latest()
        if latest is None:
            return state
        state, place = saved.restore(latest, state)
        data.set_state(place)
        return state

    def run(self) -> None:
        """Train to the last step and write the model.

        Raises:
          UserError: the loss is not finite.
          SystemExit: a signal asked to stop; the state has been saved.
        """
        if self.training.cache:
            self.source = self._examples()
        with StopRequest() as stop:
            state = self._train(stop)
        self._finish(state)

    def _train(self, stop: StopRequest) -> TrainState:
        name, log, steps = self.stage.name, self.config.log, self.training.steps
        data = training_iterator(
            self.source, self.training.batch_size, self.config.seed, jax.process_index(), jax.process_count()
        )
        saved = Checkpoints(self.folder / "checkpoints", log.checkpoints_kept)
        state = self._start(saved, data)
        step = int(state.step)
        record = RunLog(self.folder, name, step, steps, visible=jax.process_index() == 0)
        before = None
        try:
            while step < steps:
                rows = next(data)
                if self.ahead and not self.training.cache:
                    rows = self._prepare(rows)
                state, metrics = self._step(state, sharding.put_batch(self.mesh, rows))
                step += 1
                self._check_finite(before, step - 1, saved)
                before = metrics["loss"]
                record.advance()
                if step % log.metrics_every == 0 or step == steps:
                    record.write(step, metrics)
                due = step % log.checkpoint_every == 0 or step == steps or stop.signal is not None
                if due:
                    self._check_finite(before, step, saved)
                    saved.save(step, state, data.get_state())
                if stop.signal is not None:
                    print(f"\n{name}: stopped by signal, saved at step {step}", file=sys.stderr)
                    raise SystemExit(128 + stop.signal)
                if log.evaluate_every and step % log.evaluate_every == 0 and step < steps:
                    self._show(self._with(state), step, record)
            self._show(self._with(state), step, record)
        finally:
            record.close()
            saved.close()
        return state

    def _check_finite(self, loss: jax.Array | None, step: int, saved: Checkpoints) -> None:
        if loss is not None and not math.isfinite(value := float(loss)):
            raise UserError(
                f"{self.stage.name}: loss is {value} at step {step}; the last good checkpoint is of step "
                f"{saved.latest() or 0}"
            )

    def _with(self, state: TrainState) -> dict[str, Variables]:
        """The variables of all stages, this one as it stands."""
        exported = self.stage.export(state.model, state.model_state, self._batches())
        return self.variables | {self.stage.name: jax.device_put(exported, sharding.replicated(self.mesh))}

    def _batches(self) -> Iterator[Example]:
        """Examples of the training set in order, for statistics."""
        size = self.config.evaluate.batch_size
        for _, batch in zip(range(-(-EXPORT_CASES // size)), evaluation_batches(self.source, size), strict=False):
            yield batch if self.training.cache else self._prepare(batch)

    def _show(self, variables: dict[str, Variables], step: int, record: RunLog) -> None:
        batch = next(iter(evaluation_batches(self.test, self.config.evaluate.batch_size)))
        metrics, volumes = self.stage.show(variables, batch["ct"], self.key)
        record.write(step, metrics)
        if volumes and jax.process_index() == 0:
            named = {name: np.asarray(volume) for name, volume in volumes.items()}
            comparison_panel(named.pop("truth"), named, self.folder / "pictures" / f"step_{step:07d}.png")

    def _finish(self, state: TrainState) -> None:
        variables = jax.tree.map(np.asarray, self._with(state)[self.stage.name])
        facts = {"stage": self.stage.name, "steps": int(state.step), "config": json.loads(self.config.to_json())}
        save_model(self.folder / "model", variables, facts)
