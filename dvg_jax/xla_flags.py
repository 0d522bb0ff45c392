"""Choose flags of XLA by name, before JAX starts its backend: it reads ``XLA_FLAGS`` once, then. Does not import JAX.

An unknown flag ends the process, so each is looked for in the libraries that will read it. A user's own choice wins.
"""

import mmap
import os
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from dvg_jax.plugins import computes_on_cpu, xla_libraries


class Flag(NamedTuple):
    """Hold a flag, the value that is wanted, whose programs it changes, and why it is wanted."""

    name: str
    value: str
    backend: Literal["cpu", "gpu"]
    reason: str


FLAGS = {
    "eigen_convolutions": Flag(
        "xla_cpu_experimental_ynn_fusion_type",
        "-individual_convolution",
        "cpu",
        "XLA's YNN library takes three to five times as long as Eigen for our convolutions.",
    ),
    "deterministic": Flag(
        "xla_gpu_exclude_nondeterministic_ops",
        "true",
        "gpu",
        "Kernels that add in an order of chance make two equal trainings differ in their bits.",
    ),
    "channels_last": Flag(
        "xla_gpu_force_conv_nhwc",
        "true",
        "gpu",
        "Convolutions run channels last, where XLA turns 3D ones to channels first. By the compiler's plan for an H100 "
        "g_theta then moves 5.99 GB instead of 6.13, and a ct_vqgan step 60.46 instead of 60.06.",
    ),
}
"""It maps each setting's name to its flag."""

ALWAYS = ("eigen_convolutions",)
"""Every command makes these settings.

``deterministic`` is a choice of the config. ``channels_last`` is off because which layout is faster has not been
measured; to try it, add its name here or set its flag in ``XLA_FLAGS``.
"""


def choose(*settings: str) -> None:
    """Make settings of ``FLAGS``: add each flag to ``XLA_FLAGS``, unless the user has set it or XLA does not know it.

    Flags of GPUs are left out where JAX will take the CPU: they would change nothing but the names under which compiled
    programs are stored. A ``XLA_FLAGS`` that names a file of flags is left alone.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    if given and not given[0].startswith("-"):
        return
    taken = {word.lstrip("-").partition("=")[0] for word in given}
    for flag in map(FLAGS.__getitem__, settings):
        if flag.backend == "gpu" and computes_on_cpu():
            continue
        if flag.name not in taken and is_known(flag.name):
            given.append(f"--{flag.name}={flag.value}")
    if given:
        os.environ["XLA_FLAGS"] = " ".join(given)


@cache
def is_known(name: str) -> bool:
    """Tell whether every library that reads ``XLA_FLAGS`` has a flag of this name; False where none is found.

    XLA itself tells only by ending the process. The name of a flag is a string of its own in the library's bytes: a
    search takes 0.04 s where it is there, and a second where it is not.
    """
    libraries = xla_libraries()
    return bool(libraries) and all(_contains(library, b"\0%s\0" % name.encode()) for library in libraries)


def _contains(library: Path, text: bytes) -> bool:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0
