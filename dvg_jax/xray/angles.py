"""Check which angles in degrees make a set of views."""

import math
from collections.abc import Sequence

from dvg_jax.errors import UserError

SMALLEST_STEP = 0.01
"""Two views are one below this many degrees: the source, a metre away, moves by less than 0.2 mm."""


def check_angles(what: str, angles: Sequence[float]) -> None:
    """Refuse invalid angles (allowed: -360 to 360) and two that give one view; ``what`` names them in the message."""
    for angle in angles:
        if not isinstance(angle, (int, float)) or not -360 <= angle <= 360:
            raise UserError(f"{what} has {angle!r}; allowed: angles from -360 to 360 degrees")
    for i, a in enumerate(angles):
        for b in angles[i + 1 :]:
            if abs(math.remainder(a - b, 360)) < SMALLEST_STEP:
                raise UserError(
                    f"{what} has {a!r} and {b!r}, which show the same view; allowed: angles that are {SMALLEST_STEP} "
                    "degrees or more apart"
                )
