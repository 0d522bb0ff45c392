"""Name the shapes of arrays that public signatures use; the tests check them at run time.

Axes: ``D`` foot to head, ``H`` anterior to posterior, ``W`` patient right to left, ``h`` detector rows (along +D,
so row 0 is the FOOT end in arrays; files and pictures have the head at row 0), ``w`` detector columns,
``B`` batch, ``V`` views, ``C``/``c`` channels. The down-sampled axes of a latent are called ``d h w`` in the text and
``dz hz wz`` here, since a name stands for one length within a signature. What a layer changes ends in ``_out``.
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
AnyVolume = Float[Array | np.ndarray, "D H W"]
"""A volume, as a JAX or a NumPy array."""
AnyImage = Float[Array | np.ndarray, "h w"]
"""An image, as a JAX or a NumPy array."""
Pose = Float[Array | np.ndarray, "6"]
"""(rotation about D, H, W in degrees; translation along D, H, W in mm)."""
Poses = Float[Array | np.ndarray, "V 6"]
Features = Float[Array, "B D H W C"]
NewChannels = Float[Array, "B D H W C_out"]
"""Features at the input's positions, with another number of channels."""
Resized = Float[Array, "B D_out H_out W_out C_out"]
"""Features of another size and another number of channels than the input."""
Images = Float[Array, "B h w C"]
NewImages = Float[Array, "B h_out w_out C_out"]
"""Images of another size and another number of channels than the input."""
Latent = Float[Array, "B dz hz wz c"]
Codes = Int[Array, "B dz hz wz"]
Times = Int[Array, "B"]
Key = Array
"""A typed PRNG key, ``jax.random.key(seed)``."""
Variables = dict[str, Any]
"""A tree of arrays by name: of one stage, ``{"params": ..., "codebook": ..., ...}``, or a part of that."""
VariablesByStage = dict[str, Variables]
"""The variables of all stages by stage name: ``{"ct_vqgan": ..., "view_vqgan": ..., ...}``."""
