"""Map image axes to volume axes, for methods that lift without geometry: rays are parallel to a volume axis.

At 0 degrees image columns are W and rays run along H; at 90 degrees columns are H and rays run along W. Rows are D in
both, in the array's own direction. A view's own frame is (depth along its rays, rows, columns).
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from dvg_jax.errors import UserError
from dvg_jax.shapes import Features, Images

FRONTAL, LATERAL = 0.0, 90.0
Angles = tuple[float, ...]


def to_volume(x: Float[Array, "B depth rows cols C"], angle: float) -> Features:
    """Turn features from the frame of the view at ``angle`` degrees to (B, D, H, W, C)."""
    return jnp.swapaxes(x, 1, 2) if angle == FRONTAL else jnp.moveaxis(x, 1, 3)


def to_view(x: Features, angle: float) -> Float[Array, "B depth rows cols C"]:
    """Invert :func:`to_volume`."""
    return jnp.swapaxes(x, 1, 2) if angle == FRONTAL else jnp.moveaxis(x, 3, 1)


def replicate(image: Images, angle: float) -> Features:
    """Repeat an image along its rays: (B, D, H, W, C), every edge as long as the image's columns."""
    depth = image.shape[2]
    return to_volume(jnp.broadcast_to(image[:, None], (image.shape[0], depth, *image.shape[1:])), angle)


def check_angles(method: str, angles: Angles, allowed: tuple[Angles, ...] = ((FRONTAL,), (FRONTAL, LATERAL))) -> None:
    """Refuse views that a method has no axes for.

    Args:
      method: its name, for the message.
      angles: of the views, in degrees.
      allowed: the sets of angles that it has axes for.

    Raises:
      UserError: ``angles`` is not one of them.
    """
    if tuple(angles) not in allowed:
        names = " or ".join(f"({', '.join(f'{a:g}' for a in some)})" for some in allowed)
        raise UserError(f"config.angles is {tuple(angles)}; allowed for {method}: {names}")
