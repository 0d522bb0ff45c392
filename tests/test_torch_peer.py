"""The PyTorch networks that ours are measured against are the published ones; skipped where PyTorch is absent."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvg_jax import torch_import
from tests.parity.errors import relative
from tests.parity.golden import NETWORKS, load, under
from tests.paths import GOLDEN_SMALL

torch = pytest.importorskip("torch", reason="the peers of the benchmarks need PyTorch")


def peers():
    from benchmarks.torch_peer import adversary, unet3d, vqgan3d

    return unet3d, vqgan3d, adversary


def filled(network, golden):
    """``network`` with the golden state dict, all of it."""
    network.load_state_dict({name: torch.from_numpy(a) for name, a in under(golden, "sd").items()})
    return network.eval()


@pytest.mark.parametrize("file", ["unet3d_cubic.npz", "unet3d_batch2_noncubic.npz"])
def test_unet_gives_the_published_output(file):
    _, golden = load(GOLDEN_SMALL, file)
    c = json.loads(str(golden["config_json"]))
    network = peers()[0].UNet3D(c["channels"], c["dim"], tuple(c["dim_mults"]), c["out_dim"], c.get("attn_heads", 8))
    x, filled_network = torch.from_numpy(golden["x"]), filled(network, golden)
    outputs = {"out": golden["t"]} if "t" in golden else {f"out_t{t}": np.array([t]) for t in (0, 37)}
    with torch.inference_mode():
        for name, times in outputs.items():
            assert relative(filled_network(x, torch.from_numpy(times)), golden[name]) < NETWORKS


def test_vqgan_gives_the_published_output():
    _, golden = load(GOLDEN_SMALL, "vqgan.npz")
    c = json.loads(str(golden["config_json"]))
    sizes = c["n_hiddens"], tuple(c["downsample"]), c["embedding_dim"], c["n_codes"], c["num_groups"]
    network = filled(peers()[1].VQGAN3D(*sizes), golden)
    with torch.inference_mode():
        latent = network.encode(torch.from_numpy(golden["x"]))
        codes, indices = network.quantize(latent)
        volume = network.decode(codes)
    assert relative(latent, golden["latent_prequant"]) < NETWORKS
    assert np.array_equal(indices, golden["encodings"].ravel())
    assert relative(volume, golden["decoded_quantized"]) < NETWORKS


@pytest.mark.parametrize("dims", [2, 3])
def test_critic_is_ours(dims):
    peer = peers()[2].PatchDiscriminator(dims, width=2)
    critic, variables = torch_import.patch_discriminator({k: v.numpy() for k, v in peer.state_dict().items()}, dims)
    x = np.random.default_rng(0).random((2, *(16,) * dims, 1)).astype(np.float32)
    logits, new = jax.jit(lambda x: critic.apply(variables, x, mutable=["batch_stats"]))(jnp.asarray(x))
    theirs = peer(torch.from_numpy(x).movedim(-1, 1))[-1].detach().movedim(1, -1)
    assert relative(logits[0], theirs) < NETWORKS
    assert relative(new["batch_stats"]["norm1"]["var"], peer.model1[1].running_var) < NETWORKS


def test_lpips_is_ours():
    from dvg_jax.networks.lpips import load_lpips, lpips

    a, b = np.random.default_rng(0).random((2, 2, 16, 16, 1)).astype(np.float32)
    ours = jnp.mean(jax.jit(lpips)(load_lpips("vgg"), a, b))
    with torch.inference_mode():
        theirs = peers()[2].LPIPS()(torch.from_numpy(a).movedim(-1, 1), torch.from_numpy(b).movedim(-1, 1))
    assert relative(ours, theirs) < NETWORKS
