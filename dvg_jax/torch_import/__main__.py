"""Run ``python -m dvg_jax.torch_import``."""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":
    run_module("dvg_jax.torch_import.command")
