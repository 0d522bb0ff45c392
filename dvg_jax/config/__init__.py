"""Define every setting with its default, its rule and its scales, and build the objects that a config describes."""

from dvg_jax.config.defaults import (
    PUBLISHED,
    check,
    completed,
    default_config,
    published_config,
    read,
    save,
    stage_field,
    stage_settings,
    training,
)  # fmt: skip
from dvg_jax.config.table import BASELINES, STAGES

__all__ = [
    "BASELINES", "PUBLISHED", "STAGES", "check", "completed", "default_config", "published_config",
    "read", "save", "stage_field", "stage_settings", "training",
]  # fmt: skip
