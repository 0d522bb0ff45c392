"""Check fields of a config against each other; ``config/table.py`` has the rule of each field alone."""

from ml_collections import ConfigDict

from dvg_jax.baselines.cddpm import VolumeUNet
from dvg_jax.calibration import LEAST
from dvg_jax.config.table import LATENT_STAGES, METHODS, STAGES, VQGANS
from dvg_jax.errors import UserError
from dvg_jax.xray.geometry import check_angles


def check_relations(config: ConfigDict) -> None:
    """Refuse combinations that cannot work. Every field must have passed its own rule before.

    Raises:
      UserError: the first such combination.
    """
    for name in ("angles", "new_angles"):
        check_angles(f"config.{name}", config[name])
    if config.random_views and (config.new_angles or not config.use_vpge):
        raise UserError(
            f"config.random_views is {config.random_views}, with new_angles {tuple(config.new_angles)} and use_vpge "
            f"{config.use_vpge}; allowed: 0, or 1 and more with use_vpge and no new_angles"
        )
    if config.diffusion.target == "residual" and not (config.new_angles and config.use_vpge):
        raise UserError(
            f"config.diffusion.target is residual, with new_angles {tuple(config.new_angles)} and use_vpge "
            f"{config.use_vpge}; allowed: latent, or residual with new_angles and use_vpge"
        )
    steps = config.sampler.steps
    if steps > config.timesteps:
        raise UserError(f"config.sampler.steps is {steps}; allowed: 1 to {config.timesteps}, or 0 for all of them")
    for name in STAGES:
        _check_lengths(name, config[name].train)
    for name in METHODS:
        _check_lengths(f"baselines.{name}", config.baselines[name].train)
    for name in VQGANS:
        _check_groups(name, config[name].network)
    for name in LATENT_STAGES:
        network = config[name].network
        _check_unet(name, network, network.groups)
    _check_widths("refine", config.refine.network)
    _check_widths("baselines.unrolled", config.baselines.unrolled.network)
    if 0 < config.calibration.cases < LEAST:
        raise UserError(f"config.calibration.cases is {config.calibration.cases}; allowed: 0, or {LEAST} and more")
    if config.consistency.mode == "refine":
        _check_refiner(config.size, tuple(config.refine.network.widths))
    _check_unet("baselines.cddpm", config.baselines.cddpm.network, VolumeUNet.groups)


def _check_lengths(field: str, train: ConfigDict) -> None:
    """Check that the phases of the learning rate fit into the steps."""
    if train.warmup_steps >= train.steps:
        raise UserError(
            f"config.{field}.train.warmup_steps is {train.warmup_steps}; allowed: 0 or more, fewer than the "
            f"{train.steps} steps"
        )
    falling = train.decay_steps or train.steps // 2
    if train.schedule == "linear" and train.warmup_steps + falling > train.steps:
        raise UserError(
            f"config.{field}.train.decay_steps is {train.decay_steps}, which with {train.warmup_steps} warmup_steps is "
            f"more than the {train.steps} steps; allowed: 0 to {train.steps - train.warmup_steps}"
        )


def _check_groups(name: str, network: ConfigDict) -> None:
    """Check that the groups divide the channels of the coarser levels, which are multiples of the first level's."""
    channels = network.n_hiddens * (2 if max(network.downsample) > 1 else 1)
    if channels % network.num_groups:
        raise UserError(
            f"config.{name}.network.num_groups is {network.num_groups}; allowed: divisors of the {channels} channels "
            f"that n_hiddens {network.n_hiddens} gives"
        )


def _check_unet(name: str, network: ConfigDict, groups: int) -> None:
    if network.dim % groups or network.dim % 2:
        raise UserError(f"config.{name}.network.dim is {network.dim}; allowed: even multiples of the {groups} groups")
    if network.head_dim % 2:
        raise UserError(f"config.{name}.network.head_dim is {network.head_dim}; allowed: even numbers")


def _check_widths(name: str, network: ConfigDict) -> None:
    widths, groups = tuple(network.widths), network.num_groups
    if any(width % groups for width in widths):
        raise UserError(f"config.{name}.network.widths is {widths}; allowed: multiples of the {groups} num_groups")


def _check_refiner(size: int, widths: tuple[int, ...]) -> None:
    if size % 2 ** len(widths):
        raise UserError(
            f"config.refine.network.widths is {widths}, whose {len(widths)} entries halve {size} voxels as many times; "
            "allowed: fewer entries, or another size"
        )


def check_halvings(config: ConfigDict, name: str) -> None:
    """Refuse a stage whose U-Net halves H and W of the latent too often: once for every entry but the last.

    Only stages that are trained are checked: a comparison method may use a size that does not suit the others.
    """
    if name not in LATENT_STAGES:
        return
    mults = config[name].network.dim_mults
    factor = 2 ** (len(mults) - 1)
    for whole in config.ct_vqgan.network.downsample[1:]:
        if config.size % whole == 0 and (config.size // whole) % factor:
            raise UserError(
                f"config.{name}.network.dim_mults is {tuple(mults)}, whose {len(mults)} entries halve a latent of "
                f"{config.size // whole} voxels {len(mults) - 1} times; allowed: fewer entries"
            )
