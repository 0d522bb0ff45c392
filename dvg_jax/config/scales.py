"""Define configs by scale: the paper's at 128^3, and smaller ones of the same pipeline. ``configs/`` names them."""

from collections.abc import Callable

from ml_collections import ConfigDict

from dvg_jax.config import LATENT_STAGES, VQGANS, default_config

MOST_VIEWS = 20
"""The largest number of views in the paper."""

TINY_BASELINES: dict[str, dict] = {
    "cnn2d": {"width": 0.25},
    "x2ct_cnn": {"width": 0.125, "layers": (1, 2, 3, 2, 1)},
    "x2ct_gan": {"width": 0.125, "layers": (1, 2, 3, 2, 1)},
    "prior_net": {"width": 1 / 6, "norm": "group"},
    "residual_unet": {"width": 0.25},
    "bx2s": {"base": 8},
    "reconnet": {"width": 1 / 16},
    "cddpm": {"network": {"dim": 16, "dim_mults": (1, 2, 4), "heads": 2, "attention_size": 8, "remat": False}},
    "unrolled": {},
}
"""Settings of comparison methods at 32^3 that differ from their defaults."""

FILMS = {
    "height_mm": 2.0,
    "scale": 0.01,
    "rotation_deg": 1.0,
    "curve": 0.3,
    "noise": 0.02,
    "letters": 0.1,
    "collimation": 0.02,
}
"""The demo's training films have these imperfections: placements as alignment leaves them, curves as they come."""

TINY_RATES = dict.fromkeys(TINY_BASELINES, 1e-3) | {"reconnet": 3e-4, "residual_unet": 3e-3}
"""The authors' rates are for fifty times as many steps. Of 1e-4, 3e-4, 1e-3 and 3e-3, not all of them for each, these
did best on held-out phantoms after 100 to 150 steps.
"""

SMALL_BASELINES: dict[str, dict] = {
    "cnn2d": {"width": 0.5},
    "x2ct_cnn": {"width": 0.5, "layers": (3, 6, 12, 8, 3)},
    "x2ct_gan": {"width": 0.5, "layers": (3, 6, 12, 8, 3)},
    "prior_net": {"width": 0.5},
    "residual_unet": {"width": 0.5},
    "bx2s": {"base": 8},
    "reconnet": {"width": 0.25},
    "cddpm": {"network": {"dim": 32, "dim_mults": (1, 2, 4), "attention_size": 16, "remat": False}},
}
"""Settings of comparison methods at 64^3 that differ from their defaults."""


def tiny() -> ConfigDict:
    """Return the config of 32^3 phantoms and narrow networks: minutes on a CPU."""
    config = default_config()
    config.size = 32
    config.geometry = "covering"
    config.data.train_count = 384
    config.log.checkpoint_every = 100
    config.log.evaluate_every = 0
    config.evaluate.lpips = "alex"
    moments = {"beta1": 0.9, "beta2": 0.99, "clip_norm": 0.0}
    for name, steps in zip(VQGANS, (1000, 200, 200), strict=True):
        stage = config[name]
        stage.network.update({"n_hiddens": 4, "n_codes": 2048, "num_groups": 4, "decoder_res_blocks": 1})
        stage.loss.update({"perceptual": 0.0, "gan": 0.0, "feature_matching": 0.0})
        _shorten(stage.train, steps, batch_size=1, learning_rate=6e-3, **moments)
    for name in LATENT_STAGES:
        config[name].network.update({"dim": 16, "dim_mults": (1, 2), "heads": 2})
        _shorten(config[name].train, 500, batch_size=4, learning_rate=4e-3, **moments)
    config.diffusion.train.update({"ema_decay": 0.98, "ema_every": 1, "ema_start": 50})
    config.sampler.update({"steps": 10, "eta": 0.0})
    # In pixels CDDPM takes ten times as long a step as anything else here.
    config.baselines.cddpm.space = "latent"
    for name, settings in TINY_BASELINES.items():
        config.baselines[name].update(settings)
        config.baselines[name].train.update({"steps": 400, "batch_size": 4, "learning_rate": TINY_RATES[name]})
    return config


def small() -> ConfigDict:
    """Return the config of 64^3 and half-wide networks: hours on one GPU. Its lengths are guesses, not yet tried."""
    config = default_config()
    config.size = 64
    config.geometry = "covering"
    config.log.evaluate_every = 0
    for name, steps in zip(VQGANS, (20_000, 5_000, 5_000), strict=True):
        config[name].network.update({"n_hiddens": 8, "n_codes": 4096, "num_groups": 8})
        config[name].loss.gan_start = 2_000
        _shorten(config[name].train, steps, batch_size=4, learning_rate=1e-3)
    for name in LATENT_STAGES:
        config[name].network.update({"dim": 32, "dim_mults": (1, 2, 4), "heads": 4})
        _shorten(config[name].train, 20_000, batch_size=8, learning_rate=1e-3)
    config.diffusion.train.update({"ema_decay": 0.995, "ema_every": 10, "ema_start": 2000})
    for name, settings in SMALL_BASELINES.items():
        config.baselines[name].update(settings)
        config.baselines[name].train.update({"steps": 20_000, "batch_size": 4})
    return config


def any_views(config: ConfigDict, most: int = MOST_VIEWS) -> None:
    """Turn ``config`` into that of one model for any 1 to ``most`` views."""
    config.random_views, config.new_angles = most, ()
    # Cached examples would show each CT by one set of views for ever.
    for name in ("view_vqgan", *LATENT_STAGES, "refine"):
        config[name].train.cache = False


def demo() -> ConfigDict:
    """Return :func:`tiny` with what is not in the paper: longer training, and results that agree with their films."""
    config = tiny()
    config.consistency.mode = "refine"
    config.decode_quantized = False  # G_z is trained through the decoder, and codes would undo part of it
    for name, steps in (("new_view", 1550), ("diffusion", 1000)):
        config[name].train.update({"steps": steps, "warmup_steps": steps // 10})
    config.new_view.loss.update({"pixel": 10.0, "pixel_start": 1350})
    averaging = {"ema_decay": 0.99, "ema_every": 1, "ema_start": 50}
    # Four times as many steps of one case are worth 0.5 dB more than steps of four, in the same time.
    _shorten(config.refine.train, 4000, batch_size=1, learning_rate=1e-3, end_rate=0.02, **averaging)
    config.films.update(FILMS)
    config.calibration.cases = 32
    config.baselines.unrolled.train.update(config.refine.train)  # the same networks, trained in the same way
    return config


SCALES: dict[str, Callable[[], ConfigDict]] = {"tiny": tiny, "small": small, "paper": default_config}


def _shorten(train: ConfigDict, steps: int, batch_size: int, learning_rate: float, **fields: object) -> None:
    lengths = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "warmup_steps": steps // 10}
    train.update({**lengths, "schedule": "cosine", "cache": True, **fields})
