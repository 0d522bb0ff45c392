"""``evaluate.py``: metrics, tables and pictures of a trained folder."""

from absl import flags
from ml_collections import config_flags

from dvg_jax import cli
from dvg_jax.evaluation import evaluate
from dvg_jax.training.cache import enable_compilation_cache
from dvg_jax.training.run import check_owner


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", help_string="The config that the run was trained with.", flag_values=values
    )
    workdir = flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=values)
    report = flags.DEFINE_string("report", "", "The page to write: .html, one file.", flag_values=values)
    cli.parse_flags(values, argv, required=("config", "workdir"))
    page = cli.output_file("report", report.value, (".html",)) if report.value else None
    enable_compilation_cache()
    folder = cli.workdir_path(workdir.value)
    check_owner(config.value, folder, free=("data", "angles") if config.value.random_views else ("data",))
    print("\n" + evaluate(config.value, folder, report=page))
    print(f"\nPer-case CSV, JSON and pictures: {folder / 'evaluation'}")
    if page:
        print(f"Page: {page}, open it in a browser")
