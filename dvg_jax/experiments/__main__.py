"""``python -m dvg_jax.experiments``: see ``command.py``."""

from dvg_jax.cli import run_module

if __name__ == "__main__":
    run_module("dvg_jax.experiments.command")
