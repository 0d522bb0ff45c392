"""Bind a folder of prepared scans to one input and one preset.

The scans of a second input would push those of the first out of the manifest. Two presets show chests in two ways.
"""

import re
from pathlib import Path

from dvg_jax.data.manifest import Row
from dvg_jax.errors import UserError

_SAME = 0.5
_PRESET = re.compile(r"\bpreset=(\w+)")


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


def check_preset(output: Path, preset: str, known: list[Row]) -> None:
    """Raise UserError where a row of the manifest of ``output``, ``known``, was prepared with another preset."""
    earlier = {found[1] for row in known if (found := _PRESET.search(row.settings))} - {preset}
    if earlier:
        raise UserError(
            f"--preset is {preset}, but {output} holds scans of {min(earlier)}; allowed: that preset, another --output"
        )
