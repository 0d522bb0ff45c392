"""Define every setting with its default, its rule and its scales, and build the objects that a config describes."""

from dvg_jax.config.defaults import (
    BASELINES,
    GEOMETRIES,
    PUBLISHED,
    STAGES,
    check,
    default_config,
    load,
    published_config,
    save,
    stage_field,
    stage_settings,
)  # fmt: skip

__all__ = [
    "BASELINES", "GEOMETRIES", "PUBLISHED", "STAGES", "check", "default_config", "load", "published_config", "save",
    "stage_field", "stage_settings",
]  # fmt: skip
