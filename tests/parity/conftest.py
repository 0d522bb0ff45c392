"""The report of every comparison with a golden array, and the table it ends in.

    python -m pytest tests/parity -n 0                  # prints the table
    python -m pytest tests/parity -n 0 --write-parity   # and, if all passed, puts it into docs/parity.md

A test calls ``report(file=, name=, error=, tolerance=)`` once an array. Workers of pytest-xdist print no table.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dvg_jax.devices import full_precision
from tests.paths import SHARED

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
HEADING = "## Results\n"
HEAD = ("file", "arrays compared", "worst relative error", "array", "tolerance")

FILES = (
    "codebook_ema.npz",
    "diffusion_schedule.npz",
    "discriminators.npz",
    "finestage_e2e.npz",
    "metrics.npz",
    "positional.npz",
    "preprocess_16.npz",
    "preprocess_24.npz",
    "projector.npz",
    "projector_ellipsoids.npz",
    "unet3d_batch2_noncubic.npz",
    "unet3d_cubic.npz",
    "vqgan.npz",
    "vqgan_losses.npz",
)
"""Files of the full golden set; their rows are there even where none of their arrays was compared."""


class Comparison(NamedTuple):
    """One array against its golden counterpart."""

    file: str
    name: str
    error: float
    tolerance: float


COMPARISONS = pytest.StashKey[list[Comparison]]()
Report = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-parity", action="store_true", help="write the table of golden comparisons to docs")


@pytest.fixture(scope="package", autouse=True)
def full_float32() -> Iterator[None]:
    """Compare in float32 on a GPU too: the golden arrays were computed on a CPU."""
    with full_precision():
        yield


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """Record how far an array is from the golden one, and fail if it is farther than allowed."""
    comparisons = pytestconfig.stash.setdefault(COMPARISONS, [])

    def record(*, file: str, name: str, error: float, tolerance: float) -> None:
        comparisons.append(Comparison(file, name, float(error), tolerance))
        check(comparisons[-1])

    return record


def check(found: Comparison) -> None:
    """Fail if the error is over its bound, or is not a number."""
    file, name, error, tolerance = found
    assert error <= tolerance, f"{file}: {name} has relative error {error:.1e}; allowed: {tolerance:.1e}"


def pytest_terminal_summary(terminalreporter, exitstatus: int, config: pytest.Config) -> None:
    comparisons = config.stash.get(COMPARISONS, [])
    if not comparisons:
        return
    rows = table(comparisons)
    terminalreporter.section("golden arrays")
    terminalreporter.write_line(markdown(rows))
    if not config.getoption("--write-parity", default=False):
        return
    if exitstatus:
        terminalreporter.write_line(f"{DOCUMENT.name} is left as it was: not every test passed")
    else:
        write(rows, {c.file for c in comparisons})


def table(comparisons: list[Comparison]) -> dict[str, tuple[str, ...]]:
    """A row a file, by its name."""
    rows = {}
    for file in sorted({*FILES, *(c.file for c in comparisons)}):
        mine = [c for c in comparisons if c.file == file]
        if not mine:
            rows[file] = (file, "0", "not run" if SHARED.is_dir() else "not run (needs shared)", "", "")
            continue
        worst = max(mine, key=lambda c: c.error)
        bound = f"{worst.tolerance:.1e}" if worst.tolerance else "exact"
        rows[file] = (file, str(len({c.name for c in mine})), f"{worst.error:.1e}", worst.name, bound)
    return rows


def markdown(rows: dict[str, tuple[str, ...]]) -> str:
    lines = [HEAD, tuple("---" for _ in HEAD), *rows.values()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(rows: dict[str, tuple[str, ...]], compared: set[str]) -> None:
    """Put ``rows`` under the document's last heading; a file that was not compared keeps the row it has there."""
    prose, old = DOCUMENT.read_text().split(HEADING)
    kept = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in old.splitlines() if line.startswith("|")]
    rows = rows | {cells[0]: cells for cells in kept[2:] if cells[0] not in compared}
    DOCUMENT.write_text(f"{prose}{HEADING}\n{markdown(dict(sorted(rows.items())))}\n")
