"""Side-by-side measurements against public peers."""

from dvg_jax import runtime

# As every entry point of the library does, before JAX is loaded; it serves the peers in this process as well.
runtime.set_up()
