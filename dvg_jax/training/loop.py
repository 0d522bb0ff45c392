"""Train one stage: the same loop for all of them."""

import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from dvg_jax.config import stage_field, stage_settings
from dvg_jax.config.build import build_source
from dvg_jax.data.pipeline import evaluation_batches, training_iterator
from dvg_jax.data.sources import ArraySource, Source
from dvg_jax.errors import UserError
from dvg_jax.fingerprint import fingerprint
from dvg_jax.keys import named
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
        self.key = named(jax.random.key(config.seed), stage.name)
        self.layout = sharding.Layout(self.mesh, config.shard_parameters)
        self.everywhere = sharding.replicated(self.mesh)
        self.variables = sharding.place(variables, self.everywhere)
        self.frozen = {name: self.variables[name] for name in stage.requires}
        self.constants = sharding.place(stage.task.constants(), self.everywhere)
        self.source = build_source(config, "train")
        self.test = build_source(config, "test")
        self.stop = StopRequest()

    def _examples(self) -> Source:
        """All examples of the training set, computed once; what frozen stages give is kept in the folder."""
        if self.ahead:
            facts = origin(self.config, self.stage, self.frozen, self.source)
            return kept_examples(self.folder / "examples", self.preparation, self.source, facts, self._between)
        rows = []
        for batch in evaluation_batches(self.source, self.config.evaluate.batch_size):
            self._between()
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
        key = jax.random.fold_in(named(self.key, "examples"), batch["index"][0])
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
        key = named(self.key, "weights")
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
          SystemExit: a signal asked to stop; the state has been saved, and the next run goes on from there.
        """
        with StopRequest() as self.stop:
            if self.training.cache:
                self.source = self._examples()
                self._leave_if_asked("before its first step")
            self._finish(self._train())

    def _leave_if_asked(self, where: str) -> None:
        distributed.leave_if_asked(self.stop, f"{self.stage.name}: {where}")

    def _between(self) -> None:
        """Check between two cases or batches for a request to stop; of several processes none may leave there alone."""
        if jax.process_count() == 1:
            self._leave_if_asked("examples are being computed")

    def _train(self) -> TrainState:
        name, log, steps = self.stage.name, self.config.log, self.training.steps
        data = training_iterator(
            self.source, self.training.batch_size, self.config.seed, jax.process_index(), jax.process_count()
        )
        saved = Checkpoints(self.folder / "checkpoints", log.checkpoints_kept)
        state = self._start(saved, data)
        step = int(state.step)
        record = RunLog(self.folder, name, step, steps, self._validates(step), writes=distributed.is_first())
        told: Metrics = {}
        try:
            self._leave_if_asked(f"at step {step}")
            while True:
                if self._validates(step):
                    # A run that was stopped during a validation repeats it.
                    try:
                        self._show(self._with(state), step, record)
                        self._leave_if_asked(f"saved at step {step}")
                    except SystemExit:
                        saved.save(step, state, data.get_state())
                        raise
                if step == steps:
                    break
                before = told
                state, told = self._step(state, self._next(data), self.stop.signal is not None)
                step += 1
                self._check_finite(before, step - 1, saved)
                record.advance()
                last = step == steps
                stopping = self._stopping(told if last else before)
                if step % log.metrics_every == 0 or last:
                    record.write(step, {name: value for name, value in told.items() if name != "asked"})
                if step % log.checkpoint_every == 0 or last or stopping:
                    self._check_finite(told, step, saved)
                    saved.save(step, state, data.get_state())
                if stopping:
                    self.stop.leave(f"{name}: saved at step {step}")
        finally:
            record.close()
            saved.close()
        return state

    def _validates(self, step: int) -> bool:
        every = self.config.log.evaluate_every
        return step > 0 and (step == self.training.steps or bool(every and step % every == 0))

    def _stopping(self, told: Metrics) -> bool:
        """Whether to stop now. Several processes must do so at the same step, and a signal may reach one alone: each
        puts what it knows into its rows of a step, and all stop by what that step told.
        """
        if jax.process_count() == 1:
            return self.stop.signal is not None
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
            self._between()
            yield batch if self.training.cache else self._prepare(batch)

    def _show(self, variables: dict[str, Variables], step: int, record: RunLog) -> None:
        batch = next(iter(evaluation_batches(self.test, self.config.evaluate.batch_size)))
        ct = batch["ct"] if self.mesh.size == 1 else sharding.place(batch["ct"], self.everywhere)
        metrics, volumes = self.stage.show(variables, ct, named(self.key, "pictures"))
        record.write(step, metrics)
        if volumes and distributed.is_first():
            shown = {name: np.asarray(volume) for name, volume in volumes.items()}
            comparison_panel(shown.pop("truth"), shown, self.folder / "pictures" / f"step_{step:07d}.png")

    def _finish(self, state: TrainState) -> None:
        variables = jax.tree.map(np.asarray, self._with(state)[self.stage.name])
        facts = {
            "stage": self.stage.name,
            "steps": int(state.step),
            "config": json.loads(self.config.to_json()),
            "fingerprint": fingerprint({self.stage.name: variables}),
            "from": {name: fingerprint({name: frozen}) for name, frozen in self.frozen.items()},
        }
        save_model(self.folder / "model", variables, facts)
