"""The 3D VQGAN: latent, codes, volume and every inner tensor."""

import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from dvg_jax import torch_import
from dvg_jax.networks import codebook
from dvg_jax.networks.vqgan3d import commitment
from dvg_jax.stages.adversary import Weights
from tests.parity.errors import relative
from tests.parity.golden import EXACT, FOLDERS, NETWORKS, channels_first, channels_last, load, under

NORM_AND_SILU = "final_block"
"""One module of the published decoder; ours captures the norm, which SiLU follows."""


def inner_tensor(captured, name):
    """By the published name: "decoder.conv_blocks.0.up" is what decoder/conv_blocks_0_up gave."""
    part, _, module = name.partition(".")
    if module == NORM_AND_SILU:
        return nn.silu(captured[part]["final_norm"]["__call__"][0])
    node = captured[part][module.replace(".", "_")] if module else captured[part]
    return node["__call__"][0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_encode_quantize_decode(folder, report):
    file, golden = load(folder, "vqgan.npz")
    groups = json.loads(str(golden["config_json"]))["num_groups"]
    vqgan, variables = torch_import.vqgan3d(under(golden, "sd"), num_groups=groups)

    def run(method, x):
        apply = functools.partial(vqgan.apply, method=method, capture_intermediates=True)
        y, captured = jax.jit(apply)(variables, x)
        return y, captured.get("intermediates")

    latent, encoder = run("encode", channels_last(golden["x"]))
    (codes, indices), _ = run("quantize", latent)
    volume, decoder = run("decode", codes)

    ours = {
        "latent_prequant": channels_first(latent),
        "embeddings": channels_first(codes),
        "decoded_quantized": channels_first(volume),
        "commitment_loss": Weights().commitment * commitment(latent, codes),
        "perplexity": codebook.perplexity(indices.ravel(), vqgan.n_codes),
    }
    inner = under(golden, "inter")
    assert len(inner) == 10
    ours |= {f"inter/{name}": channels_first(inner_tensor(encoder | decoder, name)) for name in inner}
    for name, array in ours.items():
        report(file=file, name=name, error=relative(array, golden[name]), tolerance=NETWORKS)
    report(file=file, name="encodings", error=relative(indices, golden["encodings"]), tolerance=EXACT)
    distinct = len(np.unique(indices))
    report(file=file, name="distinct_codes", error=relative(distinct, golden["distinct_codes"]), tolerance=EXACT)
