"""Build the frozen objects that a config describes; networks never see a ConfigDict."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from dvg_jax.config import STAGES, check
from dvg_jax.consistency import Fit
from dvg_jax.data.opening import ONE_SOURCE, check_unseen, named_sources, open_source, open_training
from dvg_jax.data.sources import Source
from dvg_jax.diffusion import Sampler, Schedule
from dvg_jax.dvg import DVG
from dvg_jax.errors import UserError
from dvg_jax.imperfections import Imperfections
from dvg_jax.metrics.protocols import Measures
from dvg_jax.networks.denoiser import ConditionalDenoiser
from dvg_jax.networks.refiner import Refiner
from dvg_jax.networks.unet3d import UNet3D
from dvg_jax.networks.vqgan3d import VQGAN3D
from dvg_jax.refinement import Refinement
from dvg_jax.stages import build_stage
from dvg_jax.xray import ConeBeamGeometry
from dvg_jax.xray.views import PROJECTORS


def build_dvg(config: ConfigDict) -> DVG:
    """Build the method that ``config`` describes."""
    check(config)
    dtype = jnp.dtype(config.dtype)
    vqgans = {
        name: VQGAN3D(**config[name].network, dtype=dtype) for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan")
    }
    for name, vqgan in vqgans.items():
        _check_sizes(config, name, vqgan)
    channels = vqgans["ct_vqgan"].embedding_dim
    factor = vqgans["ct_vqgan"].downsample[0]
    return DVG(
        geometry=build_geometry(config),
        angles=tuple(float(a) for a in config.angles),
        new_angles=tuple(float(a) for a in config.new_angles),
        **vqgans,
        generator=UNet3D(**config.new_view.network, out_dim=channels, dtype=dtype),
        denoiser=ConditionalDenoiser(
            UNet3D(**config.diffusion.network, out_dim=channels, dtype=dtype),
            stem=not config.use_vpge,
            downsample=factor,
        ),
        schedule=Schedule(config.timesteps),
        sampler=build_sampler(config),
        use_vpge=config.use_vpge,
        use_diffusion=config.use_diffusion,
        residual=config.diffusion.target == "residual",
        random_views=config.random_views,
        projector=PROJECTORS[config.projector],
        normalize_new_view=config.normalize_new_view,
        decode_quantized=config.decode_quantized,
        head_first=config.head_first,
        floor=config.floor,
        imperfections=Imperfections(**config.films),
        refinement=Refinement(
            PROJECTORS[config.projector],
            build_geometry(config),
            Refiner(**config.refine.network, dtype=dtype),
            config.refine.rounds,
            mean=config.random_views > 0,
        ),
        consistency=config.consistency.mode,
        fit=build_fit(config),
    )


def build_sampler(config: ConfigDict) -> Sampler:
    """Build the sampler that ``config.sampler`` names, or the one of its eta."""
    chosen = config.sampler
    sampler = Sampler(chosen.steps or None, chosen.eta, chosen.clip or None)
    return sampler.called(chosen.name) if chosen.name else sampler


def build_geometry(config: ConfigDict) -> ConeBeamGeometry:
    """Build the named geometry at the config's size."""
    return getattr(ConeBeamGeometry, config.geometry)(size=config.size)


def build_fit(config: ConfigDict) -> Fit:
    """Build the way in which CTs are made to follow their X-rays."""
    return Fit(config.consistency.strength, config.consistency.iterations)


def build_source(config: ConfigDict, split: str) -> Source:
    """Open the CTs of a split, ``train`` or ``test``, that ``config.data`` names."""
    data = config.data
    if split == "train":
        return open_training(data.source, config.size, data.train_count, config.seed, data.augment)
    return open_source(data.source, split, config.size, data.test_count, config.seed)


def build_also(config: ConfigDict) -> Source:
    """Open the test CTs that ``config.evaluate.also`` names. Raises UserError where a patient of them is trained on."""
    also, field = config.evaluate.also, "config.evaluate.also"
    if len(named_sources(also, field)) > 1:
        raise UserError(f"{field} is {also!r}; allowed: {ONE_SOURCE}")
    check_unseen(also, config.data.source, field)
    return open_source(also, "test", config.size, config.data.test_count, config.seed, field)


def build_measures(config: ConfigDict) -> Measures:
    """Build the metrics that ``config.evaluate`` asks for."""
    chosen = config.evaluate
    # --config.evaluate.protocols=hu,dvg arrives as one word.
    names = tuple(name for word in chosen.protocols for name in word.split(","))
    return Measures(names, chosen.lpips, chosen.lpips_range)


def required_stages(config: ConfigDict) -> tuple[str, ...]:
    """Return the stages that a reconstruction needs, in training order."""
    return _needed(config, "refine") if config.consistency.mode == "refine" else estimate_stages(config)


def estimate_stages(config: ConfigDict) -> tuple[str, ...]:
    """Return the stages of the switched-on parts of the paper's pipeline, in training order."""
    return _needed(config, "diffusion" if config.use_diffusion else "new_view")


def _needed(config: ConfigDict, last: str) -> tuple[str, ...]:
    """Return a stage and all that it requires."""
    dvg, needed = build_dvg(config), [last]
    for name in needed:  # it grows meanwhile
        needed += build_stage(name, config, dvg).requires
    return tuple(name for name in STAGES if name in needed)


def _check_sizes(config: ConfigDict, name: str, vqgan: VQGAN3D) -> None:
    factor = max(vqgan.downsample)
    if config.size < 2 * factor or config.size % factor:
        raise UserError(
            f"config.size is {config.size}; allowed: multiples of {factor} (config.{name}.network.downsample)"
        )
    if vqgan.downsample != config.ct_vqgan.network.downsample:
        raise UserError(
            f"config.{name}.network.downsample is {vqgan.downsample}; allowed: that of ct_vqgan, "
            f"{config.ct_vqgan.network.downsample}, since their latents are stacked"
        )
