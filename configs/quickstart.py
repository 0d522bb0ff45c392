"""The whole pipeline in minutes on a laptop's CPU: 32^3 phantoms, narrow networks.

    python train.py --config configs/quickstart.py --workdir runs/demo

What to expect on two CPU cores: 4 to 6 minutes; 26.7 dB volume PSNR on unseen phantoms, 5 dB above the mean training
volume (``docs/results.md``). One view instead of two: ``--config configs/quickstart.py:single``. Its settings are in
``dvg_jax/config/scales.py``.
"""

from ml_collections import ConfigDict

from dvg_jax.config.scales import tiny
from dvg_jax.errors import UserError, did_you_mean

VIEWS = {"single": ((0.0,), (90.0,)), "biplanar": ((0.0, 90.0), (45.0,))}


def get_config(views: str = "biplanar") -> ConfigDict:
    """``views``: single or biplanar."""
    if views not in VIEWS:
        raise UserError(f"--config is quickstart.py:{views}{did_you_mean(views, VIEWS)}; allowed: {', '.join(VIEWS)}")
    config = tiny()
    config.angles, config.new_angles = VIEWS[views]
    return config
