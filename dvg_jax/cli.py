"""How every command of the project starts, reads its flags and fails. Does not import JAX."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from dvg_jax import runtime
from dvg_jax.errors import UserError


def run(main: Callable[[list[str] | None], None]) -> None:
    """Run ``main`` on the command line's arguments; bad input becomes one line on stderr and exit code 2."""
    try:
        main(None)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def run_module(name: str) -> None:
    """Run the ``main`` of a module that imports JAX, with the process set up for it first."""
    runtime.set_up()
    run(importlib.import_module(name).main)


def parse_flags(values: flags.FlagValues, argv: list[str] | None, required: tuple[str, ...]) -> None:
    """Parse absl flags, ``--config`` and its overrides among them; every fault is a :class:`UserError`."""
    argv = sys.argv if argv is None else [sys.argv[0], *argv]
    if {"-h", "--help"} & set(argv):
        print(values.get_help())
        sys.exit(0)
    try:
        rest = values(argv)[1:]
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        raise UserError(_plain(error)) from error
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; allowed: flags, see --help")
    for name in required:
        if not values[name].value:
            raise UserError(f"--{name} is missing")
        if name == "config" and not isinstance(values[name].value, ConfigDict):
            # ml_collections hands out an object that complains at its first use.
            raise UserError("--config names no file that can be read; allowed: FILE.py or FILE.py:ARGUMENT")


def _plain(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].strip("'\"") if text else type(error).__name__


def workdir_path(value: str) -> Path:
    """A working folder; a file in its place is refused."""
    path = Path(value)
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir is {value}, a file; allowed: a folder, made if it is missing")
    return path


def output_file(flag: str, value: str, suffixes: tuple[str, ...]) -> Path:
    """A file to be written, checked before the work whose result it takes: its suffix and its folder."""
    path = Path(value)
    if not path.name.endswith(suffixes):
        raise UserError(f"--{flag} is {value}; allowed: a name that ends in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise UserError(f"--{flag} is {value}; allowed: a file in a folder that exists")
    return path
