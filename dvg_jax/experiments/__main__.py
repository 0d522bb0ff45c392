"""Run ``python -m dvg_jax.experiments``: see ``command.py``."""

from dvg_jax.training.stop import StopRequest

if __name__ == "__main__":
    # This comes before the imports below, which take seconds in which a signal may come.
    with StopRequest(of_program=True):
        from dvg_jax.cli.entry import run_module

        run_module("dvg_jax.experiments.command")
