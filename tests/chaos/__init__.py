"""Attack the program: kill it, damage its files, feed it hostile ones. ``python -m tests.chaos --minutes 20``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Count what a driver tried, and what held.

    Attributes:
      name: of the attack.
      tried: number of attacks.
      survived: number of those after which every promise held.
      failed: one line for each of the others: the attack, and what came of it.
    """

    name: str
    tried: int
    survived: int
    failed: tuple[str, ...]
