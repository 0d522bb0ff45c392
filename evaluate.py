"""Measure a trained model: ``python evaluate.py --config configs/quickstart.py --workdir runs/demo``."""

from dvg_jax import cli

if __name__ == "__main__":
    cli.run_module("dvg_jax.evaluate.command")
