"""Reproduce the paper's tables and Figures by one command: ``python -m dvg_jax.experiments``."""
