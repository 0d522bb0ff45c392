"""Name the shapes of arrays that public signatures use; the tests check them at run time.

Axes: ``D`` foot to head, ``H`` anterior to posterior, ``W`` patient right to left, ``h`` detector rows (along +D,
so row 0 is the FOOT end in arrays; files and pictures have the head at row 0), ``w`` detector columns,
``B`` batch, ``V`` views, ``C``/``c`` channels. The down-sampled axes of a latent are called ``d h w`` in the text and
``dz hz wz`` here, since a name stands for one length within a signature. What a layer changes ends in ``_out``.
Values of a volume are ``clip(HU + 1024, 0, 2500) / 2500``, float32.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array
from jaxtyping import Float, Int

if TYPE_CHECKING:
    Accepted = Array
else:
    # JAX takes a NumPy array wherever it takes its own, and so do the functions here; what they return is JAX's.
    Accepted = Array | np.ndarray

Volume = Float[Accepted, "D H W"]
Volumes = Float[Accepted, "B D H W 1"]
SampledVolumes = Float[Accepted, "K D H W 1"]
"""Volumes drawn from one case, or of each case of a batch."""
Image = Float[Accepted, "h w"]
Views = Float[Accepted, "B V h w 1"]
NewViews = Float[Accepted, "B V_new h w 1"]
"""Views at other angles than those of the input."""
Pose = Float[Array | np.ndarray, "6"]
"""(rotation about D, H, W in degrees; translation along D, H, W in mm)."""
Poses = Float[Array | np.ndarray, "V 6"] | Sequence[Pose]
"""An array of poses, or a sequence of them."""
Projections = Float[Accepted, "V h w"]
"""Images of one volume, an image a pose."""
Features = Float[Accepted, "B D H W C"]
NewChannels = Float[Accepted, "B D H W C_out"]
"""Features at the input's positions, with another number of channels."""
Resized = Float[Accepted, "B D_out H_out W_out C_out"]
"""Features of another size and another number of channels than the input."""
Film = Float[Accepted, "rows columns"]
"""An image of another size than the detector's."""
Images = Float[Accepted, "B h w C"]
NewImages = Float[Accepted, "B h_out w_out C_out"]
"""Images of another size and another number of channels than the input."""
Latent = Float[Accepted, "B dz hz wz c"]
Codes = Int[Accepted, "B dz hz wz"]
Times = Int[Accepted, "B"]
Key = Array
"""A typed PRNG key, ``jax.random.key(seed)``."""
Variables = dict[str, Any]
"""A tree of arrays by name: of one stage, ``{"params": ..., "codebook": ..., ...}``, or a part of that."""
VariablesByGroup = dict[str, Variables]
"""It maps an optimiser group to the parameters of one stage: ``{"model": ..., "critics": ...}``."""
VariablesByStage = dict[str, Variables]
"""The variables of all stages by stage name: ``{"ct_vqgan": ..., "view_vqgan": ..., ...}``."""
