"""Prepare inputs as the published code does, for the weights that were trained with it. Nothing else uses this.

It knows no spacing and no anatomy: a CT is resized from edge to edge and a film cut from its middle, with rows and
slices in the order in which they come.
"""

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from dvg_jax.ct.frame import HostImage, HostVolume
from dvg_jax.errors import UserError

HU_RANGE = 2500.0
DECIMALS = 6

FILM_SIDE = 160
"""Short side to which a film is resized; its middle is cut to this square, then to the detector's."""

FILM_CROP = 128


def prepare_ct(raw: Shaped[np.ndarray, "d h w"], shape: tuple[int, int, int] = (128, 128, 128)) -> HostVolume:
    """Resize a CT, clip it to 0..2500, divide by 2500 and round to 6 decimals: float32 in [0, 1].

    ``raw`` is in HU shifted so that air is 0. Raises UserError unless it has three axes and finite values.
    """
    if raw.ndim != 3 or raw.size == 0:
        raise UserError(f"CT has shape {raw.shape}; allowed: three axes, none of them empty")
    if not np.isfinite(raw).all():
        raise UserError("CT has values that are not finite; allowed: HU shifted so that air is 0")
    resized = resize_linear(raw, shape)
    return np.round(np.clip(resized, 0, HU_RANGE) / HU_RANGE, DECIMALS).astype(np.float32)


def resize_linear(raw: Shaped[np.ndarray, "d h w"], shape: tuple[int, int, int]) -> Shaped[np.ndarray, "D H W"]:
    """Linear interpolation from the first to the last voxel of each axis, in double precision, as scipy's ``zoom``.

    The dtype stays: integers are rounded, halves away from zero. As there, the last plane is 0 for the few pairs of
    sizes (63 to 24, say) whose last index is rounded to beyond the last voxel.
    """
    values = raw.astype(np.float64)
    for axis, (length, size) in enumerate(zip(raw.shape, shape, strict=True)):
        ratio = (length - 1) / (size - 1) if size > 1 else 1.0
        index = np.arange(size) * ratio
        first = np.clip(np.floor(index).astype(int), 0, max(length - 2, 0))
        fraction = np.expand_dims(index - first, [a for a in range(3) if a != axis])
        following = np.take(values, np.minimum(first + 1, length - 1), axis)
        values = (1 - fraction) * np.take(values, first, axis) + fraction * following
        values[(slice(None),) * axis + (index > length - 1,)] = 0
    if np.issubdtype(raw.dtype, np.integer):
        values = np.trunc(values + np.copysign(0.5, values))
    return values.astype(raw.dtype)


def prepare_film(picture: Shaped[np.ndarray, "rows columns"]) -> HostImage:
    """Resize and crop an 8-bit grey picture to (128, 128) float32 in [0, 1].

    It is halved with a box filter while its short side is 320 or more, resized to a short side of 160 by bicubic
    interpolation, its middle is cut out, and values are divided by 255. Raises UserError unless the picture has two
    axes of uint8.
    """
    if picture.ndim != 2 or picture.dtype != np.uint8 or picture.size == 0:
        raise UserError(f"picture has shape {picture.shape} of {picture.dtype}; allowed: two axes of uint8")
    image = Image.fromarray(picture)
    while min(image.size) >= 2 * FILM_SIDE:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = FILM_SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    square = _middle(_middle(np.asarray(image), FILM_SIDE), FILM_CROP)
    return square.astype(np.float32) / np.float32(255)


def _middle(image: np.ndarray, side: int) -> Shaped[np.ndarray, "side side"]:
    top, left = ((n - side) // 2 for n in image.shape)
    return image[top : top + side, left : left + side]
