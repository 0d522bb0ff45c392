"""The paper's networks and settings at 128^3.

    python train.py --config configs/paper.py:biplanar --workdir runs/lidc --config.data.source=data/lidc128

``:single``, ``:biplanar`` or ``:views=3`` choose the input views; three or more synthesise no new one. ``:any`` trains
one model for any 1 to 20 views.
Expected score: not run yet at this size.
"""

from ml_collections import ConfigDict

from dvg_jax.config import default_config
from dvg_jax.config.scales import MOST_VIEWS, any_views
from dvg_jax.errors import UserError, did_you_mean
from dvg_jax.xray.views import spread

NEW_ANGLES = {1: (90.0,), 2: (45.0,)}


def get_config(views: str = "biplanar") -> ConfigDict:
    """``views``: single, biplanar, any, or views=N with N from 1 to 20, spread evenly from 0 to 90 degrees."""
    config = default_config()
    if views == "any":
        any_views(config)
        return config
    count = {"single": "1", "biplanar": "2"}.get(views, views.removeprefix("views="))
    if not count.isdecimal() or not 1 <= int(count) <= MOST_VIEWS:
        near = did_you_mean(views, ("single", "biplanar", "any"))
        allowed = f"single, biplanar, any, views=1 to views={MOST_VIEWS}"
        raise UserError(f"--config is paper.py:{views}{near}; allowed: {allowed}")
    n = int(count)
    config.angles = spread(n)
    config.new_angles = NEW_ANGLES.get(n, ())
    return config
