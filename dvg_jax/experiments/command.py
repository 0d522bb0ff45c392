"""Reproduce the paper's tables and figures, at any scale and on any data.

    python -m dvg_jax.experiments --table I --scale tiny --data phantom --workdir runs/paper

trains what the table needs and is not trained yet in ``--workdir``, measures it, and writes ``report/table_I.md``,
``.csv``, ``.json`` and pictures. Rows, tables and later calls share what they have in common. The same command goes on
where it was stopped.
"""

import ast
import os
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dvg_jax import runtime
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.limits import SEED
from dvg_jax.cli.rules import Number, shown
from dvg_jax.config import check
from dvg_jax.config.build import build_source
from dvg_jax.config.scales import SCALES
from dvg_jax.config.table import check_name
from dvg_jax.data.manifest import NAME
from dvg_jax.data.opening import PHANTOM, folders_of, named_sources
from dvg_jax.data.sources import PreparedSource
from dvg_jax.errors import UserError
from dvg_jax.evaluate.cases import build_procedure
from dvg_jax.experiments.catalogue import FIG5_COUNTS, TABLES, Row, rows_of, with_unrolled
from dvg_jax.experiments.measure import CaseSet
from dvg_jax.experiments.pictures import check_drawable, draw
from dvg_jax.experiments.plan import equal_budget, shorten
from dvg_jax.experiments.reproduce import Experiment, plan, reproduce
from dvg_jax.experiments.tables import report_path, write_report, written_before
from dvg_jax.files.atomic import removal_notes, together
from dvg_jax.files.outputs import check_outputs
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.distributed import leave_if_asked
from dvg_jax.training.stop import StopRequest


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    options = _parser().parse_args(argv)
    runtime.check_platform()
    tables = TABLES if options.table == "all" else (options.table,)
    check_drawable(tables)
    rows = {table: with_unrolled(rows_of(table, options.views, options.fig5 == "shared")) for table in tables}
    base = configure(options.scale, options.data, options.seed, options.budget, options.set)
    experiment = prepare(base, options.workdir, [row for table in rows.values() for row in table], options.test)
    if options.plan:
        print(_plan(experiment))
        return
    _check_outputs(options.workdir, tables, options.data, options.test)
    enable_compilation_cache()
    with StopRequest() as stop:
        results = reproduce(experiment, lambda line: print(line, file=sys.stderr, flush=True))
        for table, its_rows in rows.items():
            leave_if_asked(stop, f"experiments: report of {table} not written")
            with together(written_before(table, experiment.workdir)) as removed:
                files = [write_report(table, its_rows, experiment, results, _facts(argv))]
                files += draw(table, its_rows, experiment, results)
            print("\n".join(map(str, files)))
            for line in removal_notes(removed):
                print(line, file=sys.stderr)


def configure(scale: str, data: str, seed: int, budget: float, changes: list[str]) -> ConfigDict:
    """Return the config that all runs start from. Raises UserError for an unknown field or an unfit value."""
    if budget <= 0:
        raise UserError(f"--budget is {budget:g}; allowed: above 0, where 1 is the scale's own length")
    config = SCALES[scale]()
    config.data.source, config.seed = data, seed
    if scale == "paper":
        config.evaluate.protocols = ("hu", "dvg")
    for change in changes:
        field, _, text = change.partition("=")
        check_name(field, config)
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two: thousands of brackets
            value = text
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"--set is {shown(change)}; allowed: FIELD=VALUE of dvg_jax/config/defaults.py ({shown(error)})"
            ) from None
    shorten(config, budget)
    if scale != "paper":
        # At paper scale each method keeps the length that its authors state.
        equal_budget(config)
    check(config)
    return config


def prepare(base: ConfigDict, workdir: Path, rows: list[Row], also: list[Path]) -> Experiment:
    """Build the experiment of these rows, tested on the data's unseen cases and on all scans of the folders ``also``.

    Args:
      base: the config that all runs start from.
      workdir: the folder of the experiments.
      rows: rows of the paper's tables.
      also: folders of prepared scans.

    Raises:
      UserError: a folder is the training data, or not one of prepared scans.
    """
    sources = [name for name, _ in named_sources(base.data.source)]
    name = " and ".join("unseen phantoms" if n == PHANTOM else f"{Path(n).name}, test split" for n in sources)
    tests = [CaseSet(name, build_source(base, "test"))]
    for folder in also:
        if folder.resolve() in [trained.resolve() for trained in folders_of(base.data.source)]:
            raise UserError(f"--test is {folder}, the training data; allowed: a folder of other prepared scans")
        tests.append(CaseSet(folder.name, PreparedSource(folder, "all", base.size)))
    return Experiment(base, workdir, plan(base, workdir, rows), tuple(tests), build_procedure(base))


def _check_outputs(workdir: Path, tables: tuple[str, ...], data: str, also: list[Path]) -> None:
    """Refuse, before anything is trained, a folder that cannot be written."""
    files = [report_path(workdir, table).with_suffix(end) for table in tables for end in (".md", ".csv", ".json")]
    folders = [workdir / name / "x" for name in ("jobs", "results")]
    read = {"--data": [folder / NAME for folder in folders_of(data, "--data")]}
    check_outputs({"--workdir": [*files, *folders]}, read | {"--test": [folder / NAME for folder in also]})


def _parser() -> Parser:
    parser = Parser(__doc__, "python -m dvg_jax.experiments")
    parser.add_argument("--table", choices=(*TABLES, "all"), required=True, help="of the paper")
    parser.add_argument(
        "--scale", choices=tuple(SCALES), default="tiny", help="see dvg_jax/config/scales.py (default tiny)"
    )
    parser.add_argument("--data", default="phantom", help="phantom, or a folder made by dvg_jax.data.prepare")
    parser.add_argument(
        "--test", type=Path, action="append", default=[], help="a prepared folder to test on too, all of it; repeatable"
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="keeps what is trained and measured, and the report"
    )
    parser.add_argument("--seed", type=number(SEED), default=0, help="of data, weights and samples (default 0)")
    parser.add_argument(
        "--budget",
        type=number(Number(0, 1000, open_low=True)),
        default=1.0,
        help="length of all trainings, as a share (default 1)",
    )
    parser.add_argument("--fig5", choices=("shared", "literal"), default="shared", help="one model, or one a point")
    parser.add_argument(
        "--views",
        type=number(Number(1, 20, whole=True)),
        nargs="+",
        default=list(FIG5_COUNTS),
        help="points of Fig. 5, 1 to 20",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change the config; repeatable"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be trained, and train nothing")
    return parser


def _plan(experiment: Experiment) -> str:
    runs = {run.name: run for run in experiment.runs.values()}
    lines = [f"{len(experiment.runs)} rows, {len(runs)} runs, {len(experiment.jobs)} stages to train:"]
    return "\n".join([*lines, *(f"{job.volumes:>12,} CTs  {name}" for name, job in experiment.jobs.items())])


def _facts(argv: list[str] | None) -> dict[str, str]:
    command = " ".join(["python -m dvg_jax.experiments", *(sys.argv[1:] if argv is None else argv)])
    devices = jax.devices()
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    cores = f" ({platform.machine()}, {os.cpu_count()} cores)" if devices[0].platform == "cpu" else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("dvg-jax", "jax", "flax"))
    return {
        "command": command,
        "device": f"{many}{devices[0].device_kind}{cores}",
        "versions": f"{versions}, Python {platform.python_version()}",
        "date": date.today().isoformat(),
    }
