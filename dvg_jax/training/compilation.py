"""Store compiled programs on disk, so that later runs can use them."""

import os
import sys
import tempfile
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Store compiled programs in ``$JAX_COMPILATION_CACHE_DIR``, or in the user's cache folder where that is not set.

    If no such folder can be created or written, a line on stderr says that they are not kept.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given and "://" in given:  # a cloud store
        return
    try:
        folder = Path(given) if given else _user_folder() / "dvg_jax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no HOME, and no such user
        print(f"compiled programs are not kept: {error}", file=sys.stderr)
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _user_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
