"""Train what a config asks for, in order, in one working folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax import config as configs
from dvg_jax.baselines import baseline_stage
from dvg_jax.config import BASELINES, STAGES, stage_settings
from dvg_jax.config.build import build_dvg, required_stages
from dvg_jax.config.relations import check_halvings
from dvg_jax.errors import UserError, near_path
from dvg_jax.files.lock import exclusive
from dvg_jax.shapes import Variables
from dvg_jax.stages import build_stage
from dvg_jax.training import orientation
from dvg_jax.training.checkpoint import load_facts, load_model
from dvg_jax.training.distributed import in_any, is_first, leave_if_asked
from dvg_jax.training.loop import StageRun
from dvg_jax.training.stop import StopRequest

FREE_FIELDS = ("stage", "log", "evaluate", "init", "sampler", "shard_parameters")
"""What may differ between two runs in one folder; training lengths may too, and whether examples are cached."""

TURNED = (*STAGES, "cddpm")
"""Networks of these stages have D in the order that ``config.head_first`` says; all others have the foot first."""


def train(config: ConfigDict, workdir: Path) -> None:
    """Train ``config.stage``, or every stage the method needs; finished stages are kept as they are.

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


@contextmanager
def alone_in(workdir: Path, what: str) -> Iterator[None]:
    """Keep every other run out of ``workdir``; the first process locks it for all processes of this run.

    Raises:
      UserError: in all processes, where another run has the lock.
    """
    with ExitStack() as held:
        refusal = None
        if is_first():
            try:
                held.enter_context(exclusive(workdir, what))
            except UserError as error:
                refusal = error
        if in_any(refusal is not None):
            raise refusal or UserError(f"{workdir}: process 0 may not work in it; see what it says")
        yield


def load_stages(config: ConfigDict, workdir: Path, names: tuple[str, ...], wanted_by: str) -> dict[str, Variables]:
    """The variables of finished stages by name, from ``config.init.<stage>`` or the working folder."""
    loaded = {}
    for name in names:
        folder = model_folder(config, workdir, name)
        if not folder.is_dir():
            raise UserError(
                f"{wanted_by} needs stage {name}, and {folder} is missing; allowed: train it first "
                f"(--config.stage={name}) or point config.init.{name} to a trained one"
            )
        check_origin(config, workdir, name)
        loaded[name], facts = load_model(folder)
        if name in TURNED:
            orientation.check(config.head_first, facts, folder)
    return loaded


def check_origin(config: ConfigDict, workdir: Path, name: str) -> None:
    """Check that a finished stage's predecessors, from which it was trained, are those that are used with it.

    A stage that was imported, or written by an earlier version, does not say what it was trained from, and passes.
    """
    folder = model_folder(config, workdir, name)
    for other, digest in load_facts(folder).get("from", {}).items():
        place = model_folder(config, workdir, other)
        if place.is_dir() and load_facts(place).get("fingerprint", digest) != digest:
            raise UserError(
                f"{folder.parent} was trained from another {other} than {place.parent} holds now; allowed: remove "
                f"{folder.parent} and train {name} again, or bring the other {other} back"
            )


def model_folder(config: ConfigDict, workdir: Path, name: str) -> Path:
    """Where a finished stage is."""
    return (Path(config.init[name]) if config.init[name] else workdir / name) / "model"


def finished_steps(config: ConfigDict, workdir: Path, name: str) -> int:
    """How many steps a stage's written model was trained for; 0 where there is none."""
    folder = model_folder(config, workdir, name)
    if config.init[name] and not folder.is_dir():
        given = Path(config.init[name])
        near = f"; did you mean {given / name}?" if (given / name / "model").is_dir() else near_path(given)
        raise UserError(f"config.init.{name} is {given}{near}; allowed: a folder that holds a trained 'model'")
    return load_model(folder)[1]["steps"] if folder.is_dir() else 0


def check_owner(config: ConfigDict, workdir: Path, free: tuple[str, ...] = ()) -> None:
    """See that a folder with a config in it was trained with this one, but for the sections in ``free`` and those of
    comparison methods that it does not hold.
    """
    path = workdir / "config.json"
    if path.exists():
        was, now = _flat(configs.load(path)), _flat(config)
        for field in sorted(was.keys() | now.keys()):
            part = field.split(".")
            may_differ = part[0] in (*FREE_FIELDS, *free) or field.endswith(("train.steps", "train.cache"))
            may_differ |= part[0] == "baselines" and not (workdir / part[1]).exists()
            if not may_differ and was.get(field) != now.get(field):
                raise UserError(
                    f"config.{field} is {now.get(field)!r}, and {workdir} was trained with {was.get(field)!r}; "
                    "allowed: the same value, or another --workdir"
                )


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat
