"""Train the whole pipeline in minutes on a laptop's CPU: 32^3 phantoms, narrow networks.

    python train.py --config configs/quickstart.py --workdir runs/demo

What to expect on two CPU cores: 7 to 9 minutes; 26.3 dB volume PSNR on unseen phantoms, 8 dB above the mean training
volume, and 23.4 dB on two real chests that ship with it (``docs/results.md``). One view instead of two:
``--config configs/quickstart.py:single``. Below are the settings that are worth a try; ``dvg_jax/config/scales.py`` has
all of this size, and ``dvg_jax/config/defaults.py`` every setting there is.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

from dvg_jax.config.scales import demo
from dvg_jax.errors import UserError, did_you_mean

SCANS = Path(os.path.relpath(Path(__file__).parents[1] / "examples" / "scans32"))
VIEWS = {"single": ((0.0,), (90.0,)), "biplanar": ((0.0, 90.0), (45.0,))}


def get_config(views: str = "biplanar") -> ConfigDict:
    """``views``: single or biplanar."""
    if views not in VIEWS:
        raise UserError(f"--config is quickstart.py:{views}{did_you_mean(views, VIEWS)}; allowed: {', '.join(VIEWS)}")
    config = demo()
    config.angles, config.new_angles = VIEWS[views]

    config.size = 32  # voxels along each edge
    config.data.train_count = 384  # phantoms; or data.source, a folder of your own scans
    config.seed = 0

    # The encoders and the decoder: of the CT, of the input views, of the synthesised view.
    for stage, steps in (("ct_vqgan", 1000), ("view_vqgan", 200), ("new_view_vqgan", 200)):
        config[stage].network.n_hiddens = 4  # channels at full size
        config[stage].network.n_codes = 2048
        config[stage].train.update({"steps": steps, "batch_size": 1, "learning_rate": 6e-3})
        config[stage].train.warmup_steps = steps // 10

    # DVG-Net's generator and the diffusion model.
    for stage, steps in (("new_view", 1550), ("diffusion", 1000)):
        config[stage].network.dim = 16  # channels at full size of the latent
        config[stage].train.update({"steps": steps, "batch_size": 4, "learning_rate": 4e-3})
        config[stage].train.warmup_steps = steps // 10

    config.new_view.loss.update({"pixel": 10.0, "pixel_start": 1350})  # the last steps see the decoded CT, too
    config.sampler.steps = 10

    # Results that agree with their films: a network that corrects them, then the smallest change that is left.
    config.consistency.mode = "refine"  # none | films | refine
    config.refine.train.update({"steps": 4000, "batch_size": 1, "learning_rate": 1e-3})
    config.refine.train.warmup_steps = 400

    config.evaluate.cases = 16
    config.evaluate.also = str(SCANS)  # two real chests at 32^3, which no stage is trained on; "" at another size
    return config
