"""Train what a config asks for, in order, in one working folder, and calibrate the errors of its results."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax import config as configs
from dvg_jax.baselines import baseline_stage
from dvg_jax.config import BASELINES, stage_settings
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.config.relations import check_halvings
from dvg_jax.devices import full_precision
from dvg_jax.errors import UserError
from dvg_jax.files.lock import exclusive
from dvg_jax.stages import build_stage
from dvg_jax.training.calibrate import calibrate
from dvg_jax.training.distributed import in_any, is_first, leave_if_asked
from dvg_jax.training.examples import check_cache
from dvg_jax.training.loop import StageRun
from dvg_jax.training.stop import StopRequest
from dvg_jax.training.workdir import check_origin, check_owner, finished_steps, load_stages


def train(config: ConfigDict, workdir: Path) -> None:
    """Train ``config.stage``, or every stage the method needs; finished stages are kept as they are.

    Once all stages of the pipeline are there, the errors of its results are calibrated.

    Several processes (``distributed.join``) share ``workdir``, which no other run may use meanwhile.

    Raises:
      UserError: a bad config, a stage whose predecessors are missing, or a folder that belongs to another config or in
        which another run is at work.
      SystemExit: SIGINT or SIGTERM asked to stop, at any time; the same call goes on.
    """
    with StopRequest() as stop, alone_in(workdir, "training"):
        _train(config, workdir, stop)


def _train(config: ConfigDict, workdir: Path, stop: StopRequest) -> None:
    dvg = build_dvg(config)
    needed = required_stages(config)
    if config.stage not in ("all", *needed, *BASELINES):
        raise UserError(
            f"config.stage is {config.stage}, which these switches leave out; allowed: all, {', '.join(needed)}"
        )
    todo = needed if config.stage == "all" else (config.stage,)
    for name in todo:
        check_halvings(config, name)
        check_cache(config, name)
    check_owner(config, workdir)
    for name in todo:
        leave_if_asked(stop, f"{name}: not begun or gone on with")
        if finished_steps(config, workdir, name) >= stage_settings(config, name).train.steps:
            check_origin(config, workdir, name)
            continue
        stage = baseline_stage(name, config, dvg) if name in BASELINES else build_stage(name, config, dvg)
        variables = load_stages(config, workdir, stage.requires, wanted_by=name)
        run = StageRun(config, stage, variables, workdir)
        if is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            configs.save(config, workdir / "config.json")
        run.run()
    if config.stage in ("all", *needed):
        with full_precision():  # as the results will be computed
            calibrate(config, dvg, workdir, stop)


@contextmanager
def alone_in(workdir: Path, what: str) -> Iterator[None]:
    """Keep every other run out of ``workdir``; the first process locks it for all processes of this run.

    Raises:
      UserError: in all processes, where another run has the lock.
    """
    with ExitStack() as locks:
        refusal = None
        if is_first():
            try:
                locks.enter_context(exclusive(workdir, what))
            except UserError as error:
                refusal = error
        if in_any(refusal is not None):
            raise refusal or UserError(
                f"{workdir}: process 0 may not work in it, see its message; allowed: another --workdir"
            )
        yield
