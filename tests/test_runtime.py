"""What is set before JAX is imported."""

import os

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
