"""Settings that must be in place before JAX is imported by any test."""

import os

from dvg_jax import runtime

runtime.tune_allocator()
runtime.quiet()
os.environ["JAX_PLATFORMS"] = os.environ.get("DVG_TEST_PLATFORM", "cpu")
# Four fake devices let sharding be tested on a CPU; thread count per device stays the machine's.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
