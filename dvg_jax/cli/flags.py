"""Parse the flags of a command; bad input gets one line that names flag, value and what is allowed. No JAX here.

``train.py`` and ``evaluate.py`` alone parse theirs by absl, for ``--config`` and its overrides: see ``config/file.py``.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dvg_jax.cli.rules import Number, shown
from dvg_jax.errors import UserError, did_you_mean, near_path


class Parser(argparse.ArgumentParser):
    """Parse ``--flag value`` and ``--flag=value`` as argparse does, but raise UserError for what it does not take.

    ``type=int``, ``float`` and ``Path`` refuse infinite numbers and empty paths; :func:`number` takes a range.

    Args:
      about: what ``--help`` prints above the flags, line by line.
      prog: how the command is started; the name of the script unless given.
    """

    def __init__(self, about: str | None, prog: str | None = None) -> None:
        super().__init__(
            prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        self.register("type", int, number(Number(whole=True)))
        self.register("type", float, number(Number()))
        self.register("type", Path, _path)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse ``args`` (None: the process's). Unknown flags are refused before missing ones."""
        given = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        for flag in (word.partition("=")[0] for word in given if re.match("--?[A-Za-z]", word)):
            if flag not in known:
                raise UserError(unknown(flag, [name for name in known if name.startswith("--")]))
        return super().parse_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds wrong as a UserError."""
        if value := re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL):
            complaint = value[2] if value[2].startswith("is ") else f"is wrong: {value[2]}; see --help"
            raise UserError(f"{value[1]} {complaint}")
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise UserError(f"{missing} {'are' if ',' in missing else 'is'} missing; see --help")
        raise UserError(unexpected(message.removeprefix("unrecognized arguments: ")))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near, allowed = did_you_mean(value, action.choices), ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"is {value!r}{near}; allowed: {allowed}")


def unknown(flag: str, names: Sequence[str]) -> str:
    """Word the refusal of an unknown flag, with the nearest known one."""
    return f"unknown flag {flag}{did_you_mean(flag, names)}; allowed: {', '.join(names)}; see --help"


def unexpected(word: str) -> str:
    """Word the refusal of a word that is not a flag."""
    return f"unexpected argument {word!r}; allowed: flags, see --help"


def number(rule: Number) -> Callable[[str], Any]:
    """Return an argparse type for numbers that follow ``rule``."""

    def parse(text: str) -> int | float:
        try:
            value = int(text) if rule.whole else float(text)
        except ValueError:
            value = math.nan
        if not rule.holds(value):
            raise argparse.ArgumentTypeError(f"is {shown(text)}; allowed: {rule.allowed}")
        return value

    return parse


def _path(text: str) -> Path:
    """Refuse the empty path, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is ''; allowed: a path")
    return Path(text)


def workdir_path(value: str | Path, made: bool = True) -> Path:
    """Check a working folder and return its path.

    With ``made`` the folder need not exist. A file in its place is refused.

    Raises:
      UserError: it is a file, is missing without ``made``, or has no name in UTF-8.
    """
    folder = Path(value)
    try:
        os.path.abspath(value).encode("utf-8")
    except UnicodeEncodeError:  # Orbax takes no other names
        raise UserError(f"--workdir is {value}, no name in UTF-8; allowed: one, in a UTF-8 locale") from None
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir is {value}, a file; allowed: a folder{', made if it is missing' if made else ''}")
    if not made and not folder.is_dir():
        raise UserError(
            f"--workdir is {value}, which does not exist{near_path(folder)}; allowed: a folder with a model"
        )
    return folder


def output_file(flag: str, value: str | Path, suffixes: tuple[str, ...]) -> Path:
    """Check suffix and folder of an output file before the work that fills it, and return its path.

    Args:
      flag: that names the file, without dashes.
      value: of the flag.
      suffixes: that are allowed.

    Raises:
      UserError: another suffix, or no such folder.
    """
    file = Path(value)
    if not file.name.endswith(suffixes):
        raise UserError(f"--{flag} is {value}; allowed: a name that ends in {' or '.join(suffixes)}")
    if not file.absolute().parent.is_dir() or file.is_dir():
        raise UserError(f"--{flag} is {value}; allowed: a file in a folder that exists")
    return file
