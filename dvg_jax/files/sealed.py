"""Seal a finished folder with a digest of each of its files, and notice later that one is damaged or gone."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dvg_jax.errors import UserError, listed

NAME = "digests.json"

_BLOCK = 2**26
"""A thread hashes so many bytes at a time: the threads share a large file too."""
_PIECE = 2**20


def seal(folder: Path) -> None:
    """Write ``digests.json`` into a folder: a digest of every file in it, by its path."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    text = json.dumps({"files": _digests(folder, names)}, indent=1) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def check_seal(folder: Path, parts: tuple[str, ...] = ("",)) -> bool:
    """Compare files with what :func:`seal` found; return False where the folder is not sealed.

    Files that came later are no damage, as nothing reads them.

    Args:
      folder: that was sealed.
      parts: beginnings of the paths of the files to look at.

    Raises:
      UserError: a file is damaged or gone, or the seal is.
    """
    try:
        wanted = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        chosen = {name: digest for name, digest in wanted.items() if name.startswith(parts)}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, f"{NAME} cannot be read ({error})") from error
    try:
        found = _digests(folder, chosen)
    except (OSError, ValueError) as error:
        raise damaged(folder, str(error)) from error
    if differing := [name for name, digest in chosen.items() if found[name] != digest]:
        raise damaged(folder, f"{listed(differing)} changed")
    return True


def damaged(folder: Path, what: str) -> UserError:
    """Return the error that names a damaged folder, and in it what changed."""
    return UserError(f"{folder} is damaged: {what}; allowed: as it was written")


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return a digest of each file: of the digests of its blocks, which threads compute."""
    with ThreadPoolExecutor() as pool:
        files = {name: (folder / name).stat().st_size for name in names}
        blocks = {
            name: [pool.submit(_block, folder / name, start) for start in range(0, size, _BLOCK)]
            for name, size in files.items()
        }
        return {
            name: hashlib.sha256(b"".join([found.result() for found in parts])).hexdigest()
            for name, parts in blocks.items()
        }


def _block(path: Path, start: int) -> bytes:
    found, left = hashlib.sha256(), _BLOCK
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (piece := file.read(min(left, _PIECE))):
            found.update(piece)
            left -= len(piece)
    return found.digest()
