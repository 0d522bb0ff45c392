"""Compare a device's results with the CPU's, and a training with its repetition."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.full_size import Trainer, random_variables
from benchmarks.on_gpu.plan import SMALLEST, Shared
from dvg_jax.config.build import build_dvg
from dvg_jax.config.scales import SCALES
from dvg_jax.data.phantom import chest
from dvg_jax.dvg import DVG
from dvg_jax.latents import latent_shape
from dvg_jax.networks.discriminator import PatchDiscriminator
from dvg_jax.networks.init import init_variables
from dvg_jax.networks.lpips import load_lpips, lpips
from dvg_jax.xray import ConeBeamGeometry, back_project, forward_project, published, view_pose

TWICE = ("ct_vqgan", "new_view")
TWICE_STEPS = 30

PROJECTED, NETWORK, GRADIENT = 1e-5, 1e-4, 1e-3
"""Relative rms differences may be so large at the highest precision: of sums along rays, networks, and their gradients.

An H100 had 1e-5, 6e-6 and no figure for the third.
"""

ROUNDED = 2e-2
"""A relative rms difference may be so large at the default precision, which on a GPU is TF32 with 10 bits."""

CODES = 1e-2
"""So large a share of codes may differ: of two that are almost equally near, rounding decides."""

Results = Iterator[tuple[str, dict[str, Any]]]


class Compared(NamedTuple):
    """Hold a function, its arguments, and how far its results may lie apart at the highest precision."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    allowed: float


def small_config(shared: Shared) -> ConfigDict:
    """Return the demo's config at 32^3 or smaller: a CPU computes the same for comparison."""
    config = SCALES["tiny"]()
    config.size = min(SMALLEST, shared.size)
    config.ct_vqgan.loss.update({"gan": 1.0, "feature_matching": 4.0, "gan_start": 0, "disc_width": 8})
    return config


def equal(shared: Shared) -> Results:
    """Compare this device with this machine's CPU in float32, as users get it and at the highest precision."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    ways = {"cpu": (cpu, "highest"), "default": (device, "default"), "highest": (device, "highest")}
    for name, (function, arguments, allowed) in compared(build_dvg(small_config(shared))).items():
        found = {}
        for label, (where, precision) in ways.items():
            with jax.default_matmul_precision(precision):
                result = jax.jit(function)(*jax.device_put(arguments, where))
            found[label] = jax.tree.map(np.asarray, result)
        apart = {label: difference(found[label], found["cpu"]) for label in ("default", "highest")}
        holds = apart["highest"] <= allowed and apart["default"] <= max(allowed, ROUNDED)
        yield name, {**apart, "allowed": allowed, "allowed_default": max(allowed, ROUNDED), "holds": holds}


def twice(shared: Shared) -> Results:
    """Train a small stage twice in this process, and compare the bits."""
    for name in TWICE:
        digests = []
        for _ in range(2):
            trainer = Trainer(name, small_config(shared))
            for _ in range(TWICE_STEPS):
                trainer.step()
            leaves = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trainer.state.params))
            digests.append(hashlib.sha256(leaves).hexdigest()[:12])
        yield name, {"same": digests[0] == digests[1], "digests": digests}


def difference(a: Any, b: Any) -> float:
    """Return the rms difference of two trees relative to the second's rms; of whole numbers the share that differs."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (a, b))
    if np.issubdtype(b.dtype, np.integer):
        return float(np.mean(a != b))
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2) / max(np.mean(b.astype(np.float64) ** 2), 1e-300)))


def compared(dvg: DVG) -> dict[str, Compared]:
    """Return what is compared: every kind of network, its gradients, and the projections."""
    with jax.default_device(jax.devices("cpu")[0]):
        ct = chest(jax.random.key(3), dvg.geometry.volume_shape[0])
        variables = random_variables(dvg)
        z = jax.random.normal(jax.random.key(0), latent_shape(dvg.ct_vqgan, (1, *ct.shape)))
        critics = {dims: _critic(dims, ct) for dims in (2, 3)}
        slices = ct[:4, ..., None], ct[-4:, ..., None]
        perceptual = load_lpips("vgg")
    vqgan, denoiser, t = variables["ct_vqgan"], variables["diffusion"]["params"], jnp.zeros(1, jnp.int32)
    networks = {
        "encoder": Compared(dvg.ct_latent, (variables, ct[None, ..., None]), NETWORK),
        "decoder, not quantised": Compared(lambda v, z: dvg.ct_vqgan.apply(v, z, method="decode"), (vqgan, z), NETWORK),
        "codes": Compared(lambda v, z: dvg.ct_vqgan.apply(v, z, method="quantize")[1], (vqgan, z), CODES),
        "G_z": Compared(dvg.first_latent, (variables["new_view"]["params"], z), NETWORK),
        "g_theta": Compared(lambda p, z: dvg.denoiser.predict((p, (z, z)), z, t), (denoiser, z), NETWORK),
        "g_theta, gradient of the loss": Compared(
            lambda p, z: jax.grad(dvg.loss)(p, (z, z), z, jax.random.key(0)), (denoiser, z), GRADIENT
        ),
        "LPIPS": Compared(lpips, (perceptual, *slices), NETWORK),
        "decoder, gradient": Compared(
            jax.grad(lambda v, z: jnp.sum(dvg.ct_vqgan.apply(v, z, method="decode") ** 2), argnums=1),
            (vqgan, z), GRADIENT,
        ),
    }  # fmt: skip
    judges = {f"critic in {dims}D": Compared(*critic, NETWORK) for dims, critic in critics.items()}
    return networks | judges | projections(ct, dvg.geometry)


def projections(volume: jax.Array, geometry: ConeBeamGeometry) -> dict[str, Compared]:
    """Return projections. A NumPy pose is level and known beforehand; a JAX array is any pose."""
    level = view_pose(45.0)
    any_pose = np.asarray(view_pose(37.0, (3.0, -2.0, 1.0), (4.0, -3.0)), np.float32)
    image = np.ones(geometry.detector_shape, np.float32)
    image[0, 0] = 0.5

    def energy(volume: jax.Array, pose: Any) -> jax.Array:
        return jnp.sum(forward_project(volume, pose, geometry) ** 2)

    level_ones: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "forward, level": (lambda x: forward_project(x, level, geometry), (volume,)),
        "forward, level, gradient": (jax.grad(lambda x: energy(x, level)), (volume,)),
        "back, level": (lambda i: back_project(i, level, geometry), (image,)),
        "forward, released": (lambda x: published.forward_project(x, level, geometry), (volume,)),
        "back, released": (lambda i: published.back_project(i, level, geometry), (image,)),
        "forward, any pose": (lambda x, p: forward_project(x, p, geometry), (volume, any_pose)),
        "back, any pose": (lambda i, p: back_project(i, p, geometry), (image, any_pose)),
    }
    gradients = Compared(jax.grad(energy, argnums=(0, 1)), (volume, any_pose), GRADIENT)
    sums = {name: Compared(*made, PROJECTED) for name, made in level_ones.items()}
    return sums | {"forward, any pose, gradients": gradients}


def _critic(dims: int, ct: jax.Array) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a patch critic's logits as a function of its variables and input, and both of these."""
    critic = PatchDiscriminator(dims=dims, width=8)
    x = ct[:2, ..., None] if dims == 2 else ct[None, ..., None]
    variables = init_variables(critic, jax.random.key(4), x)
    return lambda v, x: critic.apply(v, x, mutable=["batch_stats"])[0][0], (variables, x)
