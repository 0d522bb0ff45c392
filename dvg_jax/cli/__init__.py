"""Start, end and stop every command in the same way, and word the errors of its flags. Nothing here imports JAX."""
