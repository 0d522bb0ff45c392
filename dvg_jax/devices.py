"""Describe the devices that JAX has found, and ask for full precision where they would round products."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


def described(dtype: str) -> str:
    """Return a line about all devices and how networks compute on them; JAX starts its backend for it.

    Args:
      dtype: compute type of the networks.
    """
    found = jax.devices()
    kinds, platform = ", ".join(dict.fromkeys(device.device_kind for device in found)), found[0].platform
    line = f"devices: {len(found)} {platform}" + (f" ({kinds})" if kinds != platform else "")
    if limit := (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"):
        line += f", {limit / 2**30:.1f} GiB each"
    line += f"; networks compute in {dtype}"
    return f"{line}, products of matrices at precision {_precision(platform)}" if dtype == "float32" else line


@contextmanager
def full_precision() -> Iterator[None]:
    """Let float32 convolutions and products of matrices be float32 inside; the user's own choice wins.

    GPUs from Ampere on take TF32 otherwise, which has 10 bits of mantissa. On a CPU nothing is rounded and nothing is
    set: a setting that changes no number would still compile every program again.

    The user's choice is ``JAX_DEFAULT_MATMUL_PRECISION``.
    """
    if jax.devices()[0].platform == "cpu" or _chosen() is not None:
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield


def _precision(platform: str) -> str:
    if platform == "cpu":
        return "float32"
    chosen = _chosen() or "default"
    return f"{chosen} (TF32 from Ampere on)" if chosen == "default" and platform == "gpu" else chosen


def _chosen() -> str | None:
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
