"""Run ``evaluate.py``: write metrics, tables and pictures of a trained folder."""

import sys

from absl import flags

from dvg_jax import runtime, xla_flags
from dvg_jax.cli.flags import output_file, workdir_path
from dvg_jax.config import check
from dvg_jax.config import file as config_file
from dvg_jax.devices import described, full_precision
from dvg_jax.errors import say
from dvg_jax.evaluate.run import evaluate
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.workdir import check_owner


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    values = flags.FlagValues()
    config = config_file.define(values, argv, "The config that the run was trained with.")
    workdir = flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=values)
    report = flags.DEFINE_string("report", "", "The page to write: .html, one file.", flag_values=values)
    config_file.parse(values, argv)
    page = output_file("report", report.value, (".html",)) if report.value else None
    folder = workdir_path(workdir.value, made=False)
    check(config.value)
    if config.value.deterministic:
        xla_flags.choose("deterministic")
    runtime.check_platform()
    enable_compilation_cache()
    check_owner(config.value, folder, free=("data", "angles") if config.value.random_views else ("data",))
    with full_precision():
        say(described(config.value.dtype), sys.stderr)
    print("\n" + evaluate(config.value, folder, report=page))
    print(f"\nPer-case CSV, JSON and pictures: {folder / 'evaluation'}")
    if page:
        print(f"Page: {page}, open it in a browser")
