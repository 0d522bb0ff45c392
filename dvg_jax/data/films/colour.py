"""Convert colour pictures of films to grey; refuse colour photos."""

import numpy as np

from dvg_jax.errors import UserError

PHOTO_CHROMA = 0.05
"""Least mean chroma of a colour photo (largest minus smallest channel, as a share of white)."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grey_of(colours: np.ndarray, white: float, repairs: list[str]) -> np.ndarray:
    """Return the brightness (h, w) of a colour picture.

    Args:
      colours: red, green and blue (h, w, 3) from 0 to ``white``.
      white: value of white.
      repairs: receives a line if there is a faint colour.

    Raises:
      UserError: the picture is a colour photo.
    """
    chroma = float((colours.max(axis=-1) - colours.min(axis=-1)).mean(dtype=np.float64)) / white
    if chroma > PHOTO_CHROMA:
        raise UserError(f"a colour photo (mean chroma {chroma:.2f}); allowed: grey, chroma up to {PHOTO_CHROMA}")
    if chroma > 0:
        repairs.append("faint colour turned to grey")
    return colours.astype(np.float32) @ LUMA
