"""Read ``--config FILE.py:ARGUMENT``, its overrides ``--config.FIELD=VALUE`` and the flags next to them.

By absl, since ml_collections adds the overrides to its flags. Every fault is one line.
"""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from dvg_jax.cli.flags import unexpected, unknown
from dvg_jax.cli.rules import Number, refusal, shown
from dvg_jax.config.table import check_name, rules
from dvg_jax.errors import UserError, near_path

NAME = "config"
_OVERRIDE = re.compile(rf"-{{1,2}}(?:no)?{NAME}\.([^=]+)")


def define(values: flags.FlagValues, argv: list[str] | None, about: str) -> flags.FlagHolder:
    """Define ``--config`` with its overrides ``--config.FIELD=VALUE``.

    :func:`parse` raises UserError for a file that gives no config and for an override of a field that it does not have.

    Args:
      values: the flags to add to.
      argv: the words of the command line; None for the process's.
      about: help text of the flag.
    """
    given = _words(argv)
    holder = config_flags.DEFINE_config_file(NAME, help_string=about, flag_values=values, sys_argv=given)
    values[NAME].parser = _Parser(given)
    return holder


def parse(values: flags.FlagValues, argv: list[str] | None) -> None:
    """Parse the flags of a command that needs ``--config`` and ``--workdir``; every fault is a UserError."""
    given = _words(argv)
    if {"-h", "--help"} & set(given):
        print(values.get_help())
        sys.exit(0)
    try:
        rest = values(given)[1:]
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith(f"{NAME}."):
            missing = f"--{NAME} is missing; allowed: --{NAME} FILE.py before --{error.flagname}"
            raise UserError(missing) from error
        raise UserError(unknown(f"--{error.flagname}", [f"--{name}" for name in values if "." not in name])) from error
    except flags.IllegalFlagValueError as error:
        raise _illegal(error, values) from error
    except flags.Error as error:
        raise UserError(str(error)) from error
    if rest:
        raise UserError(unexpected(rest[0]))
    for name in (NAME, "workdir"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see --help")


def _words(argv: list[str] | None) -> list[str]:
    return sys.argv if argv is None else [sys.argv[0], *argv]


def _illegal(error: flags.IllegalFlagValueError, values: flags.FlagValues) -> UserError:
    """Word the refusal of a value that its flag or its field does not take."""
    cause = error.__context__
    if isinstance(cause, UserError):
        return cause
    name, _, value = str(error).removesuffix(f": {cause}").removeprefix("flag --").partition("=")
    if name not in values:
        return UserError(str(error))
    field = name.removeprefix(f"{NAME}.")
    if field != name and (rule := rules().get(field)):
        return UserError(refusal(field, value, rule))
    whole = isinstance(values[name].parser, flags.IntegerParser)
    kind = Number(whole=True).allowed if whole else f"a value like {values[name].default!r}"
    return UserError(f"--{name} is {shown(value)}; allowed: {kind}")


class _Parser(flags.ArgumentParser):
    """Parse the file's name in place of ml_collections' parser, whose messages lose their reason."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__()
        self._argv = argv

    def parse(self, path: str) -> ConfigDict:
        config = load_file(path)
        for word in self._argv:
            if override := _OVERRIDE.match(word):
                check_name(override.group(1), config)
        config.lock()
        return config

    def flag_type(self) -> str:
        return "config file"


def load_file(text: str) -> ConfigDict:
    """Load the config that ``FILE.py`` or ``FILE.py:ARGUMENT`` gives.

    Raises:
      UserError: a file that is absent or not Python, whose code fails, that has no ``get_config`` or one that takes no
        such argument, or that gives no config.
    """
    file, colon, argument = text.partition(":")
    path = Path(file)
    if not text:
        raise UserError(f"--{NAME} is missing; allowed: FILE.py or FILE.py:ARGUMENT")
    if path.suffix != ".py":
        script = path.with_suffix(".py") if path.name else path
        near = f"; did you mean {script}?" if path.name and script.is_file() else ""
        raise UserError(f"--{NAME} is {text}, no Python file{near}; allowed: FILE.py or FILE.py:ARGUMENT")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which does not exist"
        raise UserError(f"--{NAME} is {text}, {what}{near_path(path)}; allowed: FILE.py or FILE.py:ARGUMENT")
    make = getattr(_trying(path, lambda: _module(path)), "get_config", None)
    if not callable(make):
        raise UserError(f"--{NAME} is {text}, which has no function get_config; allowed: a file that defines one")
    arguments = (argument,) if colon else ()
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError:
        allowed = f"{file}:ARGUMENT" if not colon else f"{file} without an argument"
        raise UserError(f"--{NAME} is {text}; allowed: {allowed}, as its get_config is written") from None
    config = _trying(path, lambda: make(*arguments))
    if not isinstance(config, ConfigDict):
        raise UserError(f"--{NAME} is {text}, whose get_config gives {type(config).__name__}; allowed: a ConfigDict")
    return config


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{NAME}_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _trying(path: Path, make: Callable[[], Any]) -> Any:
    """Return the result of ``make``; a failure of the user's code gives one line with its kind, reason and place."""
    try:
        return make()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--{NAME} is {path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == path.resolve()
        ]
        place = f", line {lines[-1]}" if lines else ""
        raise UserError(f"--{NAME} is {path}{place}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return kind and message of an error, without ml_collections' list of all fields of a locked config."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if locked := re.match(r"'?(Key .* config is locked\.) Other fields present:", text):
        near = re.search(r"Did you mean .*\?", text)
        text = f"{locked[1]} {near[0] if near else ''}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
