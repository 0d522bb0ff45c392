"""Name the shapes that public signatures use.

Axes: ``D`` foot to head, ``H`` anterior to posterior, ``W`` patient right to left, ``h`` detector rows (along +D,
so row 0 is the FOOT end in arrays; files and pictures have the head at row 0), ``w`` detector columns,
``B`` batch, ``V`` views, ``C``/``c`` channels. Lower-case ``d h w`` in a latent are the down-sampled axes.
Values of a volume are ``clip(HU + 1024, 0, 2500) / 2500``, float32.
"""

from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Float, Int

Volume = Float[Array, "D H W"]
Volumes = Float[Array, "B D H W 1"]
Image = Float[Array, "h w"]
Views = Float[Array, "B V h w 1"]
Pose = Float[Array | np.ndarray, "6"]
"""(rotation about D, H, W in degrees; translation along D, H, W in mm)."""
Poses = Float[Array | np.ndarray, "V 6"]
Features = Float[Array, "B D H W C"]
Latent = Float[Array, "B d h w c"]
Codes = Int[Array, "B d h w"]
Times = Int[Array, "B"]
Key = Array
"""A typed PRNG key, ``jax.random.key(seed)``."""
Variables = Any
"""A pytree of Flax variables: ``{"params": ..., ...}``."""
