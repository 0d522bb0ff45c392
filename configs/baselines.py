"""The paper's comparison methods, on the same scans, X-rays and metrics as DVG-Diffusion.

    python train.py --config configs/baselines.py:cnn2d,biplanar --workdir runs/lidc --config.data.source=data/lidc128
    python evaluate.py --config configs/paper.py:biplanar --workdir runs/lidc --config.data.source=data/lidc128

``:METHOD,VIEWS``, with views as in ``configs/paper.py``; ``:METHOD,VIEWS,tiny`` is the same at the size of
``configs/quickstart.py``, in minutes on a CPU. All methods may share a working folder with each other and with the
pipeline trained by those two files; ``evaluate.py`` shows every one that it finds there.
Expected scores: not run yet at 128^3; the paper's Table I has them for LIDC.
"""

from ml_collections import ConfigDict

from configs import paper, quickstart
from dvg_jax.config import BASELINES
from dvg_jax.errors import UserError, did_you_mean


def get_config(argument: str = "cnn2d,biplanar") -> ConfigDict:
    """``argument``: a method, views, and optionally ``tiny``, separated by commas."""
    method, *rest = argument.split(",")
    if method not in BASELINES:
        near = did_you_mean(method, BASELINES)
        allowed = f"one of {', '.join(BASELINES)}, then views, then tiny"
        raise UserError(f"--config is baselines.py:{argument}{near}; allowed: {allowed}")
    views, size = [*rest, *("biplanar", "")[len(rest) :]][:2]
    if len(rest) > 2 or size not in ("", "tiny"):
        raise UserError(
            f"--config is baselines.py:{argument}; allowed: {method}, single or biplanar or views=N, then tiny"
        )
    config = (quickstart if size else paper).get_config(views)
    config.stage = method
    return config
