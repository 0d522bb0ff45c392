"""Encode X-rays as pictures inside the page itself."""

import base64
import io

import numpy as np
from PIL import Image

from dvg_jax.ct.frame import HostImage
from dvg_jax.viz import to_picture

MAX_SIDE = 512
"""Longest side in pixels of a picture in the page; films have thousands."""

DIFFERENCE_RANGE = 0.5
"""Difference, as a share of a film's range, that has the full colour."""

_BRIGHTER, _DARKER = np.array([255.0, 150.0, 40.0]), np.array([60.0, 160.0, 255.0])


def grey(image: HostImage) -> str:
    """Encode an X-ray (h, w) in [0, 1], row 0 the foot end, as a data URI with the head at the top."""
    levels = np.rint(255 * np.clip(np.asarray(to_picture(image), np.float32), 0, 1)).astype(np.uint8)
    return _uri(levels)


def difference(image: HostImage, other: HostImage) -> str:
    """Encode the difference of two X-rays: black where equal, orange where ``image`` is brighter, blue where darker."""
    share = np.clip(to_picture(np.asarray(image) - np.asarray(other)) / DIFFERENCE_RANGE, -1, 1)[..., None]
    return _uri(np.rint(np.where(share > 0, share * _BRIGHTER, -share * _DARKER)).astype(np.uint8))


def _uri(levels: np.ndarray) -> str:
    picture = Image.fromarray(levels)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
