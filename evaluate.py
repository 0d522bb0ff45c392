"""Measure a trained model: ``python evaluate.py --config configs/quickstart.py --workdir runs/demo``."""

from dvg_jax.cli.entry import run_module

if __name__ == "__main__":
    run_module("dvg_jax.evaluate.command")
