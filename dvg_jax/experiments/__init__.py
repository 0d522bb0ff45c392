"""The paper's tables and figures from one command: ``python -m dvg_jax.experiments``."""
