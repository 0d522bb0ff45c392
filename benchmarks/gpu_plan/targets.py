"""Describe the GPUs that programs are compiled for, and what each can do at most.

A description is the text of XLA's ``GpuTargetConfigProto`` in ``targets/NAME.txtpb``: with it XLA compiles for a GPU
that the machine does not have.
"""

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from dvg_jax import runtime
from dvg_jax.errors import UserError

DESCRIPTIONS = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Target:
    """Hold a GPU's peaks, from its data sheet: operations and bytes a second.

    Attributes:
      name: of the description.
      half: floating point operations in bfloat16 and float16, on tensor cores, without sparsity.
      tf32: in float32 where products may be TF32, XLA's default.
      single: in float32 at the highest precision.
      bandwidth: bytes to and from memory.
    """

    name: str
    half: float
    tf32: float
    single: float
    bandwidth: float

    @property
    def description(self) -> str:
        """Return the text that XLA reads."""
        return (DESCRIPTIONS / f"{self.name}.txtpb").read_text()

    def flop_rate(self, dtype: str, highest: bool) -> float:
        """Return the peak of products whose operands have HLO's type ``dtype``; ``highest`` excludes TF32."""
        if dtype in ("bf16", "f16"):
            return self.half
        return self.single if highest else self.tf32


TARGETS = {
    target.name: target
    for target in (
        Target("h100", half=989e12, tf32=494.7e12, single=67e12, bandwidth=3.35e12),
        Target("a100", half=312e12, tf32=156e12, single=19.5e12, bandwidth=2.04e12),
        Target("rtx4090", half=165e12, tf32=82.6e12, single=82.6e12, bandwidth=1.008e12),
    )
}
"""It maps each GPU's name to its peaks."""


def compile_only() -> None:
    """Set a process up for compiling: what it computes itself, it computes on the CPU, with a GPU or without.

    It must be called before JAX looks for its devices. The allocator's setting of the commands is left out: with it the
    compiler's threads wait for each other.
    """
    jax.config.update("jax_platforms", "cpu")
    runtime.quiet()


def has_compiler() -> bool:
    """Tell whether JAX's plugin for CUDA is installed, which contains the compiler."""
    return any(plugin.name.startswith("xla_cuda") for plugin in entry_points(group="jax_plugins"))


def devices(target: Target, count: int = 1) -> list[Any]:
    """Return ``count`` devices of one host that programs can be compiled for, but not run on.

    Raises:
      UserError: JAX's plugin for CUDA is not installed.
    """
    if not has_compiler():
        raise UserError(
            "JAX's plugin for CUDA is not installed; allowed: an environment with it, made by pip install 'jax[cuda12]'"
        )
    made = topologies.get_topology_desc(platform="cuda", target_config=target.description, topology=f"1x1x{count}")
    return list(made.devices)
