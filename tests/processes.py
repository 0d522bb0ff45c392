"""Give an environment to commands that tests start in processes of their own."""

import os

FAKE_DEVICES = "--xla_force_host_platform_device_count=4"


def one_device() -> dict[str, str]:
    """Return this process's environment without the fake devices of ``conftest.py``."""
    return os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "").replace(FAKE_DEVICES, "").strip()}
