"""``python -m dvg_jax.torch_import``."""

from dvg_jax.cli import run
from dvg_jax.torch_import.command import main

if __name__ == "__main__":
    run(main)
