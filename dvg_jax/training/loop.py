"""Train one stage: the same loop for all of them."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dvg_jax.config import stage_field, stage_settings
from dvg_jax.config.build import build_source
from dvg_jax.data.opening import folders_of
from dvg_jax.data.pipeline import evaluation_batches
from dvg_jax.errors import UserError, listed
from dvg_jax.fingerprint import fingerprint
from dvg_jax.finite import not_finite
from dvg_jax.keys import named
from dvg_jax.shapes import VariablesByStage
from dvg_jax.stages.base import Example, Metrics, Stage
from dvg_jax.training import distributed, sharding
from dvg_jax.training.checkpoint import Checkpoints, load_facts, save_model
from dvg_jax.training.examples import Examples, Given, check_cache, open_examples
from dvg_jax.training.log import RunLog
from dvg_jax.training.optim import Training
from dvg_jax.training.sanity import check_rate, say_collapse, say_constant
from dvg_jax.training.state import Fixed, Step, TrainState, create, update
from dvg_jax.training.stop import StopRequest
from dvg_jax.training.workdir import model_folder
from dvg_jax.viz import comparison_panel

EXPORT_CASES = 256
"""Upper bound of the training examples from which a finished stage's statistics are computed."""


class StageRun:
    """Train one stage, from its last checkpoint if there is one.

    With several processes each reads its own rows of every batch. They do all else alike and in the same order, since
    every computation needs all of them. The first one writes logs and pictures; all write checkpoints and models.

    Args:
      config: of the run.
      stage: to be trained.
      variables: of the stages before it, by name; all of ``stage.requires``.
      workdir: gets ``<stage>/checkpoints``, ``model``, ``metrics.jsonl`` and ``pictures``, once :meth:`run` is called.

    Raises:
      UserError: data or config cannot work.
    """

    def __init__(self, config: ConfigDict, stage: Stage, variables: VariablesByStage, workdir: Path) -> None:
        self.config, self.stage, self.folder = config, stage, workdir / stage.name
        check_cache(config, stage.name)
        self.training = Training(**stage_settings(config, stage.name).train)
        self.rate = jax.jit(self.training.rate())
        check_rate(self.rate, self.training, f"config.{stage_field(stage.name)}.train")
        self.mesh = sharding.data_mesh(self.training.batch_size, f"config.{stage_field(stage.name)}.train.batch_size")
        self.layout = sharding.Layout(self.mesh, config.shard_parameters)
        self.everywhere = sharding.replicated(self.mesh)
        self.key = named(jax.random.key(config.seed), stage.name)
        self.variables = sharding.place(variables, self.everywhere)
        self.frozen = {name: self.variables[name] for name in stage.requires}
        self.constants = sharding.place(stage.task.constants(self.frozen), self.everywhere)
        self.cts = build_source(config, "train")
        self.test = build_source(config, "test")
        self.stop = StopRequest()

    def run(self) -> None:
        """Train to the last step and write the model.

        Raises:
          UserError: the loss is not finite.
          SystemExit: a signal asked to stop; the state has been saved, and the next run goes on from there.
        """
        if distributed.is_first() and folders_of(self.config.data.source):
            say_constant(self.cts, self.config.data.source)
        with StopRequest() as self.stop:
            examples = self.examples()
            self._leave_if_asked("before its first step")
            state = self._train(examples)
            self._write_model(state, examples)

    def examples(self) -> Examples:
        """Open the stage's examples; kept examples are computed if they are missing."""
        given = Given(self.config, self.stage, self.frozen, self.cts, self.mesh, self.key, self._between)
        return open_examples(given, self.folder / "examples")

    def _train(self, examples: Examples) -> TrainState:
        """Take the steps that are left; at the end every state is whole that was to be saved."""
        with Checkpoints(self.folder / "checkpoints", self.config.log.checkpoints_kept) as saved:
            return self._take_steps(examples, saved)

    def _take_steps(self, examples: Examples, saved: Checkpoints) -> TrainState:
        """Take the steps that are left; log, validate and save on the way."""
        log, last = self.config.log, self.training.steps
        program, fixed = self._program(examples)
        state = self._start(program, examples, saved)
        step = int(state.step)
        record = RunLog(self.folder, self.stage.name, step, last, self._validates(step), writes=distributed.is_first())
        metrics: Metrics = {}
        try:
            self._leave_if_asked(f"at step {step}")
            self._validate(state, step, examples, record, saved)
            while step < last:
                # Read a step's metrics when the next one is under way, so that the device never waits.
                before = metrics
                state, metrics = self._step(program, fixed, state, examples.next())
                step += 1
                saved.check()
                self._check_finite(before, step - 1, saved)
                record.advance()
                stopping = self._stopping(metrics if step == last else before)
                if step == last and distributed.is_first():
                    say_collapse(self.stage.name, metrics)
                if step % log.metrics_every == 0 or step == last:
                    record.write(step, {name: value for name, value in metrics.items() if name != "asked"})
                if step % log.checkpoint_every == 0 or step == last or stopping:
                    self._check_finite(metrics, step, saved)
                    self._save(state, step, examples, saved)
                if stopping:
                    self._leave(step, saved)
                self._validate(state, step, examples, record, saved)
        finally:
            record.close()
        return state

    def _program(self, examples: Examples) -> tuple[Step, Fixed]:
        """Return the step to be compiled, and the arrays that it reads at every call."""
        step = Step(self.stage.task, self.training.recipe, examples.prepare, self.layout)
        return step, Fixed(examples.frozen, self.constants, self.key)

    def _start(self, program: Step, examples: Examples, saved: Checkpoints) -> TrainState:
        """Return a new state or the last saved one, and set ``examples`` to the position that belongs to it."""
        state = create(program, named(self.key, "weights"), examples.first())
        if (latest := saved.latest()) is not None:
            state, examples.place = saved.restore(latest, state)
        return state

    def _step(self, program: Step, fixed: Fixed, state: TrainState, rows: Example) -> tuple[TrainState, Metrics]:
        """Take one step on this process's ``rows`` of the batch."""
        asked = None
        if jax.process_count() > 1:
            count = len(next(iter(rows.values())))
            asked = sharding.put_batch(self.mesh, np.full(count, self.stop.signal is not None, np.float32))
        batch = sharding.put_batch(self.mesh, rows)
        return update(program, state, fixed, batch, self.rate(state.step), asked)

    def _leave_if_asked(self, where: str) -> None:
        distributed.leave_if_asked(self.stop, f"{self.stage.name}: {where}")

    def _leave(self, step: int, saved: Checkpoints) -> NoReturn:
        """Leave at a step whose state is to be saved, and say so once it is whole."""
        saved.wait()
        self.stop.leave(f"{self.stage.name}: saved at step {step}")

    def _between(self) -> None:
        """Leave between two cases or batches if asked to stop; of several processes none may leave there alone."""
        if jax.process_count() == 1:
            self._leave_if_asked("examples are being computed")

    def _stopping(self, metrics: Metrics) -> bool:
        """Tell whether to stop now, from the metrics of a step that is done.

        All processes must stop at the same step, but a signal may reach one alone. Each process votes in its rows of
        the batch; the averaged vote is the same everywhere.
        """
        if jax.process_count() == 1:
            return self.stop.signal is not None
        return bool(metrics) and float(metrics["asked"]) > 0

    def _check_finite(self, metrics: Metrics, step: int, saved: Checkpoints) -> None:
        for name in ("loss", "gradient_norm") if metrics else ():
            if not math.isfinite(value := float(metrics[name])):
                raise UserError(f"{self.stage.name}: {name} is {value} at step {step}; {_last_good(saved)}")

    def _save(self, state: TrainState, step: int, examples: Examples, saved: Checkpoints) -> None:
        """Begin to write a state once it is known to be finite: a step's loss is that of the parameters before it."""
        if saved.latest() == step:
            return
        if found := not_finite(state):
            raise UserError(f"{self.stage.name}: not finite at step {step}: {listed(found)}; {_last_good(saved)}")
        saved.save(step, state, examples.place)

    def _validates(self, step: int) -> bool:
        every = self.config.log.evaluate_every
        return step > 0 and (step == self.training.steps or bool(every and step % every == 0))

    def _validate(self, state: TrainState, step: int, examples: Examples, record: RunLog, saved: Checkpoints) -> None:
        """Log scores and a picture of unseen cases if they are due at ``step``.

        A run that is stopped here saves its state and repeats the validation when it goes on.
        """
        if not self._validates(step):
            return
        try:
            self._show(self._with(state, examples), step, record)
            asked = distributed.in_any(self.stop.signal is not None)
        except SystemExit:
            self._save(state, step, examples, saved)
            saved.wait()
            raise
        if asked:
            self._save(state, step, examples, saved)
            self._leave(step, saved)

    def _with(self, state: TrainState, examples: Examples) -> VariablesByStage:
        """Return the variables of all stages, this one in its present state."""
        params, model_state = sharding.place((state.model, state.model_state), self.everywhere)
        size = self.config.evaluate.batch_size
        batches = islice(examples.in_order(size), -(-EXPORT_CASES // size))
        exported = self.stage.export(params, model_state, batches)
        return self.variables | {self.stage.name: sharding.place(exported, self.everywhere)}

    def _show(self, variables: VariablesByStage, step: int, record: RunLog) -> None:
        batch = next(iter(evaluation_batches(self.test, self.config.evaluate.batch_size)))
        ct = jnp.asarray(batch["ct"]) if self.mesh.size == 1 else sharding.place(batch["ct"], self.everywhere)
        metrics, volumes = self.stage.show(variables, ct, named(self.key, "pictures"))
        record.write(step, metrics)
        if volumes and distributed.is_first():
            arrays = {name: np.asarray(volume) for name, volume in volumes.items()}
            comparison_panel(arrays.pop("truth"), arrays, self.folder / "pictures" / f"step_{step:07d}.png")

    def _trained_as(self, name: str) -> str:
        """Return the stage that a predecessor was trained as: an encoder of views may serve as that of new views."""
        folder = model_folder(self.config, self.folder.parent, name)
        return load_facts(folder).get("stage", name) if folder.is_dir() else name

    def _write_model(self, state: TrainState, examples: Examples) -> None:
        variables = jax.tree.map(np.asarray, self._with(state, examples)[self.stage.name])
        facts = {
            "stage": self.stage.name,
            "steps": int(state.step),
            "config": json.loads(self.config.to_json()),
            "fingerprint": fingerprint({self.stage.name: variables}),
            "from": {name: fingerprint({self._trained_as(name): frozen}) for name, frozen in self.frozen.items()},
        }
        save_model(self.folder / "model", variables, facts)


def _last_good(saved: Checkpoints) -> str:
    saved.wait()
    return f"the last good checkpoint is of step {saved.latest() or 0}"
