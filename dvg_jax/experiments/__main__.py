"""``python -m dvg_jax.experiments``: see ``command.py``."""

from dvg_jax.cli import run_module
from dvg_jax.training.stop import StopRequest

if __name__ == "__main__":
    # Before JAX is imported, which takes seconds in which a signal may come.
    with StopRequest():
        run_module("dvg_jax.experiments.command")
