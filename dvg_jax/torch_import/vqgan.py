"""Convert a published ``VQGAN`` to :class:`VQGAN3D`, and its critics to :class:`PatchDiscriminator`."""

import re
from functools import cache

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from dvg_jax.errors import UserError
from dvg_jax.networks.convolution import Triple
from dvg_jax.networks.discriminator import PatchDiscriminator
from dvg_jax.networks.vqgan3d import VQGAN3D
from dvg_jax.shapes import Variables
from dvg_jax.torch_import.state_dict import Entry, Path, Shape, StateDict, convert, count_of, shape_of, without_module

NOT_AUTOENCODER = ("perceptual_model.", "image_discriminator.", "video_discriminator.")
COUNTER = ".num_batches_tracked"
STATISTICS = {"mean": "running_mean", "var": "running_var"}


def vqgan3d(state_dict: StateDict, num_groups: int = 32, copy: bool = True) -> tuple[VQGAN3D, Variables]:
    """Convert a published VQGAN to (VQGAN3D, its ``params`` and ``codebook`` in float32).

    Sizes follow from the shapes. The critics and LPIPS in the same state dict are left out.

    Args:
      state_dict: flat {key: array}.
      num_groups: of the group norms, which leave no trace in the shapes.
      copy: copy the weights; otherwise the variables are NumPy views of the arrays.

    Raises:
      UserError: keys or shapes are not those of such a network, or ``num_groups`` does not divide its channels.
    """
    arrays = {k: a for k, a in without_module(state_dict).items() if not k.startswith(NOT_AUTOENCODER)}
    vqgan = _measure(arrays, num_groups)
    if num_groups < 1 or 2 * vqgan.n_hiddens % num_groups:
        raise UserError(f"num_groups is {num_groups}; allowed: divisors of this VQGAN's {2 * vqgan.n_hiddens} channels")
    return vqgan, convert("VQGAN", arrays, _template(vqgan), _entry, copy)


@cache
def _template(vqgan: VQGAN3D) -> dict[Path, jax.ShapeDtypeStruct]:
    volume = jax.ShapeDtypeStruct((1, *(2 * factor for factor in vqgan.downsample), 1), jnp.float32)
    return flatten_dict(jax.eval_shape(vqgan.init, jax.random.key(0), volume))


def patch_discriminator(state_dict: StateDict, dims: int) -> tuple[PatchDiscriminator, Variables]:
    """Convert a published critic, flat {key: array}, to (PatchDiscriminator, its ``params`` and ``batch_stats``).

    ``dims``: 2 for ``image_discriminator``, 3 for ``video_discriminator``.
    """
    arrays = {k: a for k, a in without_module(state_dict).items() if not k.endswith(COUNTER)}
    stages = count_of("critic", arrays, r"model(\d+)\.")
    critic = PatchDiscriminator(dims, shape_of("critic", arrays, "model0.0.weight", dims + 2)[0], stages - 2)
    image = jax.ShapeDtypeStruct((1, *(16,) * dims, 1), jnp.float32)
    template = flatten_dict(jax.eval_shape(critic.init, jax.random.key(0), image))

    def entry(path: Path, shape: Shape) -> Entry:
        kind, number = re.fullmatch(r"(conv|norm)(\d+)", path[1]).groups()  # type: ignore[union-attr]
        leaf = STATISTICS.get(path[-1], "bias" if path[-1] == "bias" else "weight")
        shape = shape[1:] if path[-1] == "kernel" and dims == 2 else shape
        return Entry.of(f"model{number}.{0 if kind == 'conv' else 1}.{leaf}", path, shape)

    return critic, convert("critic", arrays, template, entry)


def _measure(arrays: StateDict, num_groups: int) -> VQGAN3D:
    hiddens = shape_of("VQGAN", arrays, "encoder.conv_first.conv.weight", 5)[0]
    codes, channels = shape_of("VQGAN", arrays, "codebook.embeddings", 2)
    levels = count_of("VQGAN", arrays, r"decoder\.conv_blocks\.(\d+)\.up\.")
    kernels = [shape_of("VQGAN", arrays, f"decoder.conv_blocks.{i}.up.convt.weight", 5)[2:] for i in range(levels)]
    downsample: Triple = tuple(2 ** sum(kernel[axis] == 4 for kernel in kernels) for axis in range(3))
    blocks = count_of("VQGAN", arrays, r"decoder\.conv_blocks\.0\.res(\d+)\.")
    return VQGAN3D(hiddens, downsample, channels, codes, num_groups, blocks)


def _entry(path: Path, shape: Shape) -> Entry:
    """Map ("params", "decoder", "conv_blocks_0_up", "kernel") to "decoder.conv_blocks.0.up.convt.weight"."""
    collection, *modules, leaf = path
    if collection == "codebook":
        return Entry.of(f"codebook.{leaf}", path, shape)
    name = re.sub(r"conv_blocks_(\d+)_", r"conv_blocks.\1.", ".".join(modules)).replace("final_norm", "final_block.0")
    transposed = name.endswith(".up")
    if transposed:
        name += ".convt"
    elif "norm" not in modules[-1]:
        name += ".conv"
    return Entry.of(f"{name}.{'bias' if leaf == 'bias' else 'weight'}", path, shape, transposed)
