"""The paper's networks and settings at 128^3.

    python train.py --config configs/paper.py:biplanar --workdir runs/lidc --config.data.source=data/lidc128

``:single``, ``:biplanar`` or ``:views=3`` choose the input views; three or more synthesise no new one.
Expected score: not run yet at this size.
"""

from ml_collections import ConfigDict

from dvg_jax.config import default_config
from dvg_jax.errors import UserError
from dvg_jax.xray.views import spread

NEW_ANGLES = {1: (90.0,), 2: (45.0,)}


def get_config(views: str = "biplanar") -> ConfigDict:
    """``views``: single, biplanar or views=N with N from 1 to 20, spread evenly from 0 to 90 degrees."""
    count = {"single": "1", "biplanar": "2"}.get(views, views.removeprefix("views="))
    if not count.isdigit() or not 1 <= int(count) <= 20:
        raise UserError(f"paper.py:{views}; allowed: single, biplanar, views=1 to views=20")
    n = int(count)
    config = default_config()
    config.angles = spread(n)
    config.new_angles = NEW_ANGLES.get(n, ())
    return config
