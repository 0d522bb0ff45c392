"""The whole pipeline in minutes on a laptop's CPU: 32^3 phantoms, narrow networks.

    python train.py --config configs/quickstart.py --workdir runs/demo

What to expect on two CPU cores: about 6 minutes; 26.7 dB volume PSNR on unseen phantoms, 5.0 dB above the mean training
volume (``docs/results.md``).
One view instead of two: ``--config configs/quickstart.py:single``.
"""

from ml_collections import ConfigDict

from dvg_jax.config import default_config
from dvg_jax.errors import UserError

BASELINES: dict[str, dict] = {
    "cnn2d": {"width": 0.25},
    "x2ct_cnn": {"width": 0.25, "layers": (1, 2, 3, 2, 1)},
    "x2ct_gan": {"width": 0.25, "layers": (1, 2, 3, 2, 1)},
    "prior_net": {"width": 1 / 6, "norm": "group"},
    "residual_unet": {"width": 0.25},
    "bx2s": {"base": 8},
    "reconnet": {"width": 1 / 16},
    "cddpm": {"network": {"dim": 16, "dim_mults": (1, 2, 4), "heads": 2, "attention_size": 8, "remat": False}},
}
"""Comparison methods in small, trained by ``configs/baselines.py:METHOD,VIEWS,tiny``: what differs from defaults."""

VIEWS = {"single": ((0.0,), (90.0,)), "biplanar": ((0.0, 90.0), (45.0,))}


def get_config(views: str = "biplanar") -> ConfigDict:
    """``views``: single or biplanar."""
    if views not in VIEWS:
        raise UserError(f"quickstart.py:{views}; allowed: {', '.join(VIEWS)}")
    config = default_config()
    config.angles, config.new_angles = VIEWS[views]
    config.size = 32
    config.geometry = "covering"
    config.data.train_count = 384
    config.log.checkpoint_every = 100
    config.log.evaluate_every = 0
    config.evaluate.lpips = "alex"
    for name, steps in (
        ("ct_vqgan", 1000),
        ("view_vqgan", 200),
        ("new_view_vqgan", 200),
    ):
        stage = config[name]
        stage.network.update({"n_hiddens": 4, "n_codes": 2048, "num_groups": 4, "decoder_res_blocks": 1})
        stage.loss.update({"perceptual": 0.0, "gan": 0.0, "feature_matching": 0.0})
        _shorten(stage.train, steps, batch_size=1, learning_rate=6e-3)
    for name, steps in (("new_view", 500), ("diffusion", 500)):
        stage = config[name]
        stage.network.update({"dim": 16, "dim_mults": (1, 2), "heads": 2})
        _shorten(stage.train, steps, batch_size=4, learning_rate=4e-3)
    config.diffusion.train.update({"ema_decay": 0.98, "ema_every": 1, "ema_start": 50})
    config.sampler.update({"steps": 10, "eta": 0.0})
    for name, settings in BASELINES.items():
        config.baselines[name].update(settings)
        config.baselines[name].train.update({"steps": 400, "batch_size": 4})
    return config


def _shorten(train: ConfigDict, steps: int, batch_size: int, learning_rate: float) -> None:
    train.update(
        {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "schedule": "cosine",
            "warmup_steps": steps // 10,
            "beta1": 0.9,
            "beta2": 0.99,
            "clip_norm": 0.0,
            "cache": True,
        }
    )
