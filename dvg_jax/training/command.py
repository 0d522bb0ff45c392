"""Run ``train.py``: train the stages that a config asks for."""

import sys

from absl import flags

from dvg_jax import runtime, xla_flags
from dvg_jax.cli.flags import workdir_path
from dvg_jax.config import check
from dvg_jax.config import file as config_file
from dvg_jax.devices import described
from dvg_jax.errors import say
from dvg_jax.training.compilation import enable_compilation_cache
from dvg_jax.training.distributed import is_first, join
from dvg_jax.training.run import train


def main(argv: list[str] | None = None) -> None:
    """Run the command line: see the module's docstring."""
    values = flags.FlagValues()
    config = config_file.define(values, argv, "FILE.py or FILE.py:ARGUMENT; --config.FIELD=VALUE changes it.")
    workdir = flags.DEFINE_string(
        "workdir", "", "Folder of the run; the same command goes on where it stopped.", flag_values=values
    )
    coordinator = flags.DEFINE_string(
        "coordinator",
        "",
        "HOST:PORT of process 0, to train in several processes (docs/scaling.md).",
        flag_values=values,
    )
    processes = flags.DEFINE_integer("processes", None, "How many processes there are.", flag_values=values)
    process = flags.DEFINE_integer("process", None, "Which one this is, from 0.", flag_values=values)
    config_file.parse(values, argv)
    check(config.value)
    if config.value.deterministic:
        xla_flags.choose("deterministic")
    join(coordinator.value, processes.value, process.value)
    runtime.check_platform()
    enable_compilation_cache()
    if is_first():
        say(described(config.value.dtype), sys.stderr)
    train(config.value, workdir_path(workdir.value))
