"""The 3D U-Net: outputs at several times and every inner tensor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import torch_import
from tests.parity.errors import relative
from tests.parity.golden import EXACT, FOLDERS, NETWORKS, channels_first, channels_last, load, under


def compiled(arrays):
    """The network of a file's state dict: times -> output, inner outputs by module."""
    unet, variables = torch_import.unet3d(under(arrays, "sd"))
    apply = jax.jit(functools.partial(unet.apply, variables, capture_intermediates=True))

    def run(*times):
        y, captured = apply(channels_last(arrays["x"]), jnp.array(times))
        return y, captured["intermediates"]

    return run


def as_published(x):
    return channels_first(x) if x.ndim == 5 else np.asarray(x)


@pytest.mark.parametrize("folder", FOLDERS)
def test_two_times_and_every_inner_tensor(folder, report):
    file, golden = load(folder, "unet3d_cubic.npz")
    run = compiled(golden)
    report = functools.partial(report, file=file, tolerance=NETWORKS)
    for t in (0, 37):
        y, inner = run(t)
        report(name=f"out_t{t}", error=relative(channels_first(y), golden[f"out_t{t}"]))
    tensors = under(golden, "inter_t37")
    assert len(tensors) > 15
    for name, published in tensors.items():
        ours = as_published(inner[name.replace(".", "_")]["__call__"][0])
        report(name=f"inter_t37/{name}", error=relative(ours, published))


@pytest.mark.parametrize("folder", FOLDERS)
def test_batch_of_uneven_sizes(folder, report):
    file, golden = load(folder, "unet3d_batch2_noncubic.npz")
    y, inner = compiled(golden)(*golden["t"].tolist())
    report(file=file, name="out", error=relative(channels_first(y), golden["out"]), tolerance=NETWORKS)
    bias = inner["time_rel_pos_bias"]["__call__"][0]
    report(file=file, name="rel_pos_bias", error=relative(bias, golden["rel_pos_bias"]), tolerance=EXACT)
