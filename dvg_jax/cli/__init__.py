"""Start, end and stop every command in the same way, and word the errors of its flags. Nothing here imports JAX."""

from dvg_jax.cli.entry import BAD_INPUT, output_file, parse_flags, reason, run, run_module, workdir_path

__all__ = ["BAD_INPUT", "output_file", "parse_flags", "reason", "run", "run_module", "workdir_path"]
