"""Draw random chests from a key: endless training data without a download."""

from dvg_jax.data.phantom.chest import VERSION, chest, chest_hu

__all__ = ["VERSION", "chest", "chest_hu"]
