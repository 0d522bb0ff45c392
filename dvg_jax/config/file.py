"""Load a config from a Python file, ``--config FILE.py:ARGUMENT``, or say why it fails. Does not import JAX."""

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

from dvg_jax.config.table import check_name
from dvg_jax.errors import UserError, near_path

NAME = "config"
_OVERRIDE = re.compile(rf"-{{1,2}}(?:no)?{NAME}\.([^=]+)")


def define(values: flags.FlagValues, argv: list[str] | None, about: str) -> flags.FlagHolder:
    """Define ``--config`` with its overrides ``--config.FIELD=VALUE``, read from ``argv`` (None: the process's).

    Parsing it raises UserError for a file that gives no config and for an override of a field that it does not have.
    """
    given = sys.argv if argv is None else [sys.argv[0], *argv]
    holder = config_flags.DEFINE_config_file(NAME, help_string=about, flag_values=values, sys_argv=given)
    values[NAME].parser = _Parser(given)
    return holder


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
        beside = path.with_suffix(".py") if path.name else path
        near = f"; did you mean {beside}?" if path.name and beside.is_file() else ""
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
