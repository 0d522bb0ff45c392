"""What is set before JAX is imported."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from dvg_jax import runtime

CHOSEN = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


@pytest.mark.parametrize(
    ("jaxlib", "before", "after"),
    [
        ("0.10.2", "", CHOSEN),
        ("0.11.0", "--xla_dump_to=a", f"--xla_dump_to=a {CHOSEN}"),
        ("0.11.0", "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
        ("0.9.1", "", ""),
        ("0.12.0", "--xla_dump_to=a", "--xla_dump_to=a"),
    ],
)
def test_a_flag_is_set_where_it_is_known_and_a_users_own_wins(monkeypatch, jaxlib, before, after):
    monkeypatch.setattr(runtime, "version", lambda package: jaxlib)
    monkeypatch.setenv("XLA_FLAGS", before)
    runtime.choose_convolutions()
    assert os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize(
    ("platforms", "plugin", "device", "tuned"),
    [
        ("", None, "/dev/nvidiactl", True),
        ("", "xla_cuda13", "/dev/nvidiactl", False),
        ("", "xla_cuda13", "/dev/dxg", False),
        ("", "xla_cuda13", None, True),
        ("", "rocm60", None, False),
        ("cpu", "xla_cuda13", "/dev/nvidia0", True),
        ("cuda,cpu", "xla_cuda13", None, False),
    ],
)
def test_the_allocator_is_tuned_only_where_the_cpu_computes(monkeypatch, platforms, plugin, device, tuned):
    """With a GPU the compiler's threads would wait for the one arena that they share (docs/performance.md)."""
    calls = []

    class Library:
        mallopt = staticmethod(lambda *setting: calls.append(setting))

    plugins = [EntryPoint(plugin, "a.module", "jax_plugins")] if plugin else []
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: Library)
    monkeypatch.setattr(runtime, "entry_points", lambda group: plugins)
    monkeypatch.setattr(runtime.os.path, "exists", lambda path: path == device)
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    runtime.tune_allocator()
    assert bool(calls) == tuned


def test_importing_the_commands_starts_no_backend():
    """Several processes must be able to find each other before JAX looks for its devices."""
    code = (
        "import dvg_jax.training.command, dvg_jax.evaluate.command, dvg_jax.reconstruct.command\n"
        "from jax._src import xla_bridge\n"
        "print('started' if xla_bridge._backends else 'none')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "none"
