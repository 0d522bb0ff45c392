"""Bind a folder of prepared scans to one input.

The scans of a second input would push those of the first out of the manifest.
"""

from pathlib import Path

from dvg_jax.data.manifest import Row
from dvg_jax.errors import UserError

_SAME = 0.5


def name_of(source: Path) -> str:
    """Return an input's name in the manifest: its absolute path, with escapes for bytes that are not UTF-8."""
    return str(source.resolve()).encode("utf-8", "backslashreplace").decode()


def check(output: Path, source: Path, known: list[Row], found: set[str]) -> None:
    """Check that an output folder belongs to an input.

    The same folder may have changed in any way. Another folder counts as the same one, moved, if it has half of the
    known scans under their names.

    Args:
      output: folder of prepared scans.
      source: the input.
      known: rows of the output's manifest.
      found: scans below the input.

    Raises:
      UserError: the output belongs to another input.
    """
    earlier = {row.input for row in known}
    again = sum(row.source in found for row in known)
    if not known or name_of(source) in earlier or again >= _SAME * len(known):
        return
    of = min(earlier) or f"another folder, such as {known[0].source}"
    both = "or as input one folder with links to both"
    raise UserError(f"{output} holds the scans of {of}; allowed: that input, another --output, {both}")
