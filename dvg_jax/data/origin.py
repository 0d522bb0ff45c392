"""A folder of prepared scans belongs to one input, whose place it keeps.

The scans of a second input would push those of the first out of the manifest.
"""

from pathlib import Path

from dvg_jax.data.files import replacing
from dvg_jax.errors import UserError

NAME = "input.txt"

_SAME = 0.5


def check(output: Path, source: Path, known: set[str], found: set[str]) -> None:
    """Raise UserError where ``output`` holds the scans of another input.

    ``known`` are the scans that it lists, ``found`` those below ``source``. The same folder may have changed; another
    one is taken for the same, moved, if it has half of the known scans under their names.
    """
    earlier = _noted(output)
    if not known or earlier == str(source.resolve()) or len(known & found) >= _SAME * len(known):
        return
    of = earlier or f"another folder, such as {min(known)}"
    both = "one folder with links to both"
    raise UserError(f"{output} holds the scans of {of}; allowed: that input, another --output, or as input {both}")


def note(output: Path, source: Path) -> None:
    """Keep the place of the input in ``output``."""
    place = str(source.resolve())
    if _noted(output) != place:
        with replacing(output / NAME) as part:
            part.write_text(f"{place}\n", encoding="utf-8", errors="surrogateescape")


def _noted(output: Path) -> str:
    try:
        return (output / NAME).read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n")
    except FileNotFoundError:
        return ""
