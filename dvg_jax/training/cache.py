"""Compiled programs are kept between runs."""

import os
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Keep compiled programs in ``$JAX_COMPILATION_CACHE_DIR``, or in the user's cache folder where that is not set."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "dvg_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
