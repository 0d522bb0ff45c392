"""Train DVG-Diffusion: ``python train.py --config configs/quickstart.py --workdir runs/demo``."""

from dvg_jax import cli
from dvg_jax.training.stop import StopRequest

if __name__ == "__main__":
    # Before JAX is imported, which takes seconds in which a signal may come.
    with StopRequest():
        cli.run_module("dvg_jax.commands.train")
