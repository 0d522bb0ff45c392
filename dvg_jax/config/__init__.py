"""Define every setting with its default, its rule and its scales, and build the objects that a config describes."""

from dvg_jax.config.defaults import (
    CALIBRATION,
    PUBLISHED,
    check,
    default_config,
    files_of_run,
    published_config,
    stage_field,
    stage_settings,
    training,
)  # fmt: skip
from dvg_jax.config.saved import completed, read, save
from dvg_jax.config.table import ALL_STAGES, BASELINES, LATENT_STAGES, PAPER_STAGES, STAGES, VQGANS

__all__ = [
    "ALL_STAGES", "BASELINES", "CALIBRATION", "LATENT_STAGES", "PAPER_STAGES", "PUBLISHED", "STAGES", "VQGANS", "check",
    "completed", "default_config", "files_of_run", "published_config", "read", "save", "stage_field", "stage_settings",
    "training",
]  # fmt: skip
