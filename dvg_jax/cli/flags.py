"""Word the errors of flags in one line that names flag, value and what is allowed. Does not import JAX.

``train.py``, ``evaluate.py`` and ``reconstruct.py`` use absl's flags, since ml_collections adds ``--config.FIELD`` to
them; the other commands use argparse through :class:`Parser`.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags

from dvg_jax.cli.rules import Number, refusal
from dvg_jax.config.table import rules
from dvg_jax.errors import UserError, did_you_mean


def unknown(flag: str, names: Sequence[str]) -> str:
    """Word the refusal of an unknown flag, with the nearest known one."""
    if flag.startswith("--config.") and "--config" in names:
        return f"--config is missing; allowed: --config FILE.py before {flag}"
    return f"unknown flag {flag}{did_you_mean(flag, names)}; allowed: {', '.join(names)}; see --help"


def illegal(error: flags.IllegalFlagValueError, values: flags.FlagValues) -> UserError:
    """Word the refusal of a value that its flag does not take."""
    cause = error.__context__
    if isinstance(cause, UserError):
        return cause
    name, _, value = str(error).removesuffix(f": {cause}").removeprefix("flag --").partition("=")
    if name not in values:
        return UserError(str(error))
    if rule := rules().get(name.removeprefix("config.")) if "." in name else None:
        return UserError(refusal(name.removeprefix("config."), value, rule))
    flag = values[name]
    near = did_you_mean(value, flag.parser.enum_values) if isinstance(flag.parser, flags.EnumParser) else ""
    return UserError(f"--{name} is {value!r}{near}; allowed: {kind(flag)}")


def kind(flag: flags.Flag) -> str:
    """Describe the values that a flag takes."""
    parser, such = flag.parser, f", such as {flag.default!r}" if flag.default not in (None, "") else ""
    if isinstance(parser, flags.EnumParser):
        return ", ".join(parser.enum_values)
    if isinstance(parser, flags.BooleanParser):
        return "true, false"
    if isinstance(parser, (flags.IntegerParser, flags.FloatParser)):
        low, high = (bound if bound is not None else end * math.inf for bound, end in _bounds(parser))
        return Number(low, high, whole=isinstance(parser, flags.IntegerParser)).allowed + such
    return f"a value of its kind{such}"


def _bounds(parser: Any) -> tuple[tuple[float | None, int], tuple[float | None, int]]:
    return (parser.lower_bound, -1), (parser.upper_bound, 1)


class Parser(argparse.ArgumentParser):
    """Parse flags as argparse does, with messages like those of the other commands."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's error as a UserError."""
        names = [name for name in self._option_string_actions if name.startswith("--")]
        given = (word.partition("=")[0] for word in self._given if word.startswith("--"))
        # A prefix of a flag's name stands for the flag.
        strange = [word for word in given if not any(name.startswith(word) for name in names)]
        about = re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL)
        if about:
            raise UserError(f"{about[1]} {_said_of_value(about[2])}")
        if strange:
            raise UserError(unknown(strange[0], names))
        missing = message.removeprefix("the following arguments are required: ")
        raise UserError(f"{missing} is missing; see --help" if missing != message else f"{message}; see --help")


def _said_of_value(message: str) -> str:
    """Reword argparse's message about one flag's value; messages of :func:`number` need no change."""
    if choice := re.fullmatch(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
        allowed = [word.strip("' ") for word in choice[2].split(",")]
        return f"is {choice[1]!r}{did_you_mean(choice[1], allowed)}; allowed: {', '.join(allowed)}"
    if typed := re.fullmatch(r"invalid (\w+) value: '?(.*?)'?", message):
        kinds = {"int": "a whole number", "float": "a number"}
        return f"is {typed[2]!r}; allowed: {kinds.get(typed[1], typed[1])}"
    return message if message.startswith("is ") else f"is wrong: {message}; see --help"


def number(rule: Number) -> Callable[[str], Any]:
    """Return an argparse type for numbers that follow ``rule``."""

    def parse(text: str) -> int | float:
        try:
            value = int(text) if rule.whole else float(text)
        except ValueError:
            value = math.nan
        if not rule.holds(value):
            raise argparse.ArgumentTypeError(f"is {text!r}; allowed: {rule.allowed}")
        return value

    return parse
