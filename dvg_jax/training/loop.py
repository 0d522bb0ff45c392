"""Train one stage: the same loop for all of them."""

import json
import math
import signal
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
from dvg_jax.stages.base import Example, Metrics, Stage
from dvg_jax.training import distributed, sharding
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

    Of several processes each reads its own rows of every batch; all else they do alike and in the same order, since
    every computation needs all of them. The first one writes logs and pictures; checkpoints and models all together.

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
        self.layout = sharding.Layout(self.mesh, config.shard_parameters)
        self.everywhere = sharding.replicated(self.mesh)
        self.variables = sharding.place(variables, self.everywhere)
        self.frozen = {name: self.variables[name] for name in stage.requires}
        self.constants = sharding.place(stage.task.constants(), self.everywhere)
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
        """What the stage learns from, outside of a step; what is drawn depends on the batch's first case alone.

        Devices share the work where the batch divides by them; what comes out is on all of them or on the host.
        """
        if self.ahead:
            return self.preparation(batch["ct"])
        key = jax.random.fold_in(self.key, batch["index"][0])
        example = self.stage.prepare(self.frozen, sharding.share_out(self.mesh, batch["ct"]), key)
        return example if self.mesh.size == 1 else jax.device_put(example, self.everywhere)

    def _next(self, data: Iterator[Example]) -> Example:
        """This process's rows of the next batch: examples where frozen stages make them ahead of the step, or CTs."""
        rows = next(data)
        rows = self._prepare(rows) if self.ahead and not self.training.cache else rows
        return {name: value for name, value in rows.items() if name != "index"}

    def _step(self, state: TrainState, rows: Example, stopping: bool) -> tuple[TrainState, Metrics]:
        """One step on this process's ``rows`` of the batch."""
        prepare = None if self.training.cache or self.ahead else self.stage.prepare
        # Where examples are ready the compiled step must not depend on what made them.
        frozen = self.frozen if prepare else {}
        batch = sharding.put_batch(self.mesh, rows)
        asked = None
        if jax.process_count() > 1:
            count = len(next(iter(rows.values())))
            asked = sharding.put_batch(self.mesh, np.full(count, stopping, np.float32))
        rate = self.rate(state.step)
        return update(
            self.stage.task, self.recipe, prepare, state, frozen, self.constants, batch, self.key, rate, self.layout,
            asked,
        )  # fmt: skip

    def _start(self, saved: Checkpoints, data: Any) -> TrainState:
        """A new state, or the one last saved; ``data`` is left at the place that belongs to it."""
        place = data.get_state()
        batch = next(data)
        data.set_state(place)
        if self.ahead and not self.training.cache:
            batch = self._prepare(batch)
        if self.mesh.size > 1:
            # Every row on every device: what a state starts from does not depend on their number.
            batch = jax.device_put(sharding.put_batch(self.mesh, batch), self.everywhere)
        example = batch if self.training.cache or self.ahead else self._prepare(batch)
        example.pop("index", None)
        key = jax.random.fold_in(self.key, self.training.steps)
        state = create(self.stage.task, self.recipe, key, example, self.layout)
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
        record = RunLog(self.folder, name, step, steps, writes=distributed.is_first())
        told: Metrics = {}
        try:
            while step < steps:
                before = told
                state, told = self._step(state, self._next(data), stop.signal is not None)
                step += 1
                self._check_finite(before, step - 1, saved)
                record.advance()
                last = step == steps
                stopping = self._stopping(stop, told if last else before)
                if step % log.metrics_every == 0 or last:
                    record.write(step, {name: value for name, value in told.items() if name != "asked"})
                if step % log.checkpoint_every == 0 or last or stopping:
                    self._check_finite(told, step, saved)
                    saved.save(step, state, data.get_state())
                if stopping:
                    print(f"\n{name}: stopped by signal, saved at step {step}", file=sys.stderr)
                    raise SystemExit(128 + (stop.signal or signal.SIGTERM))
                if log.evaluate_every and step % log.evaluate_every == 0 and not last:
                    self._show(self._with(state), step, record)
            self._show(self._with(state), step, record)
        finally:
            record.close()
            saved.close()
        return state

    def _stopping(self, stop: StopRequest, told: Metrics) -> bool:
        """Whether to stop now. Several processes must do so at the same step, and a signal may reach one alone: each
        puts what it knows into its rows of a step, and all stop by what that step told.
        """
        if jax.process_count() == 1:
            return stop.signal is not None
        return bool(told) and float(told["asked"]) > 0

    def _check_finite(self, told: Metrics, step: int, saved: Checkpoints) -> None:
        if told and not math.isfinite(value := float(told["loss"])):
            raise UserError(
                f"{self.stage.name}: loss is {value} at step {step}; the last good checkpoint is of step "
                f"{saved.latest() or 0}"
            )

    def _with(self, state: TrainState) -> dict[str, Variables]:
        """The variables of all stages, this one as it stands."""
        params, model_state = sharding.place((state.model, state.model_state), self.everywhere)
        exported = self.stage.export(params, model_state, self._batches())
        return self.variables | {self.stage.name: sharding.place(exported, self.everywhere)}

    def _batches(self) -> Iterator[Example]:
        """Examples of the training set in order, for statistics."""
        size = self.config.evaluate.batch_size
        for _, batch in zip(range(-(-EXPORT_CASES // size)), evaluation_batches(self.source, size), strict=False):
            yield batch if self.training.cache else self._prepare(batch)

    def _show(self, variables: dict[str, Variables], step: int, record: RunLog) -> None:
        batch = next(iter(evaluation_batches(self.test, self.config.evaluate.batch_size)))
        ct = batch["ct"] if self.mesh.size == 1 else sharding.place(batch["ct"], self.everywhere)
        metrics, volumes = self.stage.show(variables, ct, self.key)
        record.write(step, metrics)
        if volumes and distributed.is_first():
            named = {name: np.asarray(volume) for name, volume in volumes.items()}
            comparison_panel(named.pop("truth"), named, self.folder / "pictures" / f"step_{step:07d}.png")

    def _finish(self, state: TrainState) -> None:
        variables = jax.tree.map(np.asarray, self._with(state)[self.stage.name])
        facts = {"stage": self.stage.name, "steps": int(state.step), "config": json.loads(self.config.to_json())}
        save_model(self.folder / "model", variables, facts)
