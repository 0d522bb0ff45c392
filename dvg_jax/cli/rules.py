"""Define rules for settings and word their violations. ``config/table.py`` assigns them. Does not import JAX."""

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from dvg_jax.errors import did_you_mean

_LONGEST = 200
_LONGEST_PATH = 4096
"""The longest path that a system takes has this many characters."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """Say which values one field allows, and what depends on it.

    Attributes:
      free: two runs in one working folder may differ in it.
      changes_examples: what frozen stages make of a CT may depend on it.
    """

    free: bool = False
    changes_examples: bool = True

    @property
    @abstractmethod
    def allowed(self) -> str:
        """Describe the allowed values, as the end of a sentence."""

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Tell whether ``value`` is allowed; never raise, for a value of any type."""


def refusal(field: str, value: Any, rule: Rule) -> str:
    """Word the refusal of a value that breaks its field's rule, in one line.

    Args:
      field: its path, without ``config.``.
      value: of the field.
      rule: that the value breaks.
    """
    near = did_you_mean(value, rule.values) if isinstance(rule, OneOf) and isinstance(value, str) else ""
    return f"config.{field} is {shown(value)}{near}; allowed: {rule.allowed}"


def shown(value: Any) -> str:
    """Return a value as Python writes it, cut where a line would be too long to read."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes, or endless nesting
        return f"a value of type {type(value).__name__} that is too long to be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


@dataclass(frozen=True)
class Number(Rule):
    """Allow finite numbers from ``low`` to ``high``; ``open_low`` and ``open_high`` exclude the bound itself."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    open_low: bool = False
    open_high: bool = False

    @property
    def allowed(self) -> str:
        low = f"more than {self.low:.10g}" if self.open_low else f"{self.low:.10g}"
        high = f"less than {self.high:.10g}" if self.open_high else f"{self.high:.10g}"
        kind = "a whole number" if self.whole else "a number"
        if self.low == -math.inf and self.high == math.inf:
            return kind
        if self.high == math.inf:
            return f"{kind}, {low}" if self.open_low else f"{kind}, {low} or more"
        return f"{kind} from {low} to {high}"

    def holds(self, value: Any) -> bool:
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) <= sys.float_info.max:
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


@dataclass(frozen=True)
class OneOf(Rule):
    """Allow one of these words or numbers."""

    values: tuple[Any, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(str(value) if value != "" else '""' for value in self.values)

    def holds(self, value: Any) -> bool:
        return any(type(value) is type(one) and value == one for one in self.values)


@dataclass(frozen=True)
class Switch(Rule):
    """Allow True or False."""

    @property
    def allowed(self) -> str:
        return "True, False"

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(Rule):
    """Allow a word, such as a folder's name; ``empty`` says whether it may be left out, ``what`` is for the message."""

    what: str
    empty: bool = False

    @property
    def allowed(self) -> str:
        return self.what

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= _LONGEST_PATH and (self.empty or bool(value.strip()))


@dataclass(frozen=True)
class Several(Rule):
    """Allow a tuple of ``least`` to ``most`` entries, or of exactly ``count``, each of which follows ``rule``."""

    rule: Rule
    least: int = 0
    most: int = 16
    count: int | None = None
    example: str = ""

    @property
    def allowed(self) -> str:
        many = f"{self.count}" if self.count else f"{self.least} to {self.most}"
        return f"a tuple{f' such as {self.example}' if self.example else ''} of {many}, each {self.rule.allowed}"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, (tuple, list)):
            return False
        right = len(value) == self.count if self.count else self.least <= len(value) <= self.most
        return right and all(self.rule.holds(one) for one in value)


@dataclass(frozen=True)
class Words(Rule):
    """Allow a tuple of one or more of these words; one entry may be several words, separated by commas."""

    values: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one or more of {', '.join(self.values)}"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or not value or not all(isinstance(one, str) for one in value):
            return False
        return all(word in self.values for one in value for word in one.split(","))
