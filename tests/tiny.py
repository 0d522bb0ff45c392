"""The whole method in its smallest form: 16^3 volumes, a few channels, a few steps."""

from dvg_jax.config import default_config


def get_config():
    config = default_config()
    config.size = 16
    config.geometry = "covering"
    config.data.update({"train_count": 16, "test_count": 4})
    config.timesteps = 10
    config.calibration.cases = 0
    config.log.update({"metrics_every": 1, "checkpoint_every": 4, "evaluate_every": 0})
    config.evaluate.update({"cases": 2, "batch_size": 2, "lpips": "", "pictures": 1})
    for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan"):
        config[name].network.update({"n_hiddens": 4, "n_codes": 32, "num_groups": 4, "decoder_res_blocks": 1})
        config[name].loss.update({"perceptual": 0.0, "gan": 0.0, "feature_matching": 0.0})
    for name in ("new_view", "diffusion"):
        config[name].network.update({"dim": 8, "dim_mults": (1,), "heads": 1, "head_dim": 8})
    for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan", "new_view", "diffusion"):
        config[name].train.update({"steps": 12, "batch_size": 1, "learning_rate": 1e-3, "cache": True})
    return config
