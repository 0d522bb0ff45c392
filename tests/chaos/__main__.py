"""Attack the program for some minutes, in a temporary folder, and print what was tried and what held.

    python -m tests.chaos --minutes 20 [--only kills faults] [--folder FOLDER]

Each attack gets its share of the time. Exit code 1 if a promise was broken.
"""

import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

from dvg_jax import runtime
from dvg_jax.cli.entry import run_command
from dvg_jax.cli.flags import Parser, number
from dvg_jax.cli.rules import Number
from tests.chaos import Result, commands

SHARES = {
    "bit_flips": 2,
    "readers": 3,
    "torch_files": 1,
    "faults": 4,
    "leak": 2,
    "two_at_once": 1,
    "kills": 6,
}
"""Each attack's module has a share of the time; what one leaves over goes to those after it."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line that the module's docstring describes."""
    parser = Parser(__doc__, "python -m tests.chaos")
    parser.add_argument("--minutes", type=number(Number(0, open_low=True)), default=20.0)
    parser.add_argument("--only", nargs="+", choices=tuple(SHARES), default=tuple(SHARES))
    parser.add_argument("--folder", type=Path, help="place of the temporary folder (default: the system's)")
    options = parser.parse_args(argv)
    os.environ |= commands.SETTINGS
    runtime.set_up()
    with tempfile.TemporaryDirectory(prefix="dvg_jax_chaos_", dir=options.folder) as folder:
        results = attack_all(Path(folder), options.minutes, tuple(options.only))
    print(table(results))
    for result in results:
        for failure in result.failed:
            print(f"{result.name}: {failure}")
    sys.exit(1 if any(result.failed for result in results) else 0)


def attack_all(folder: Path, minutes: float, names: tuple[str, ...]) -> list[Result]:
    """Run attacks one after the other, each in a folder of its own.

    Args:
      folder: for all files.
      minutes: that all of them take together; what has begun is finished.
      names: of the attacks, keys of ``SHARES``.
    """
    end, left, results = time.monotonic() + 60 * minutes, sum(SHARES[name] for name in names), []
    for name in names:
        now = time.monotonic()
        until = now + (end - now) * SHARES[name] / left
        left -= SHARES[name]
        place = folder / name
        place.mkdir()
        results.append(importlib.import_module(f"tests.chaos.{name}").attack(place, until))
        print(f"{name}: {time.monotonic() - now:.0f} s", file=sys.stderr, flush=True)
    return results


def table(results: list[Result]) -> str:
    """Return the counts of all attacks as lines of a Markdown table."""
    lines = ["| attack | tried | survived | failed |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {r.name} | {r.tried} | {r.survived} | {len(r.failed)} |" for r in results])


if __name__ == "__main__":
    run_command(main)
