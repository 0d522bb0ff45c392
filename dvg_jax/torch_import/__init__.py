"""Convert the published PyTorch weights to this library's variables, without PyTorch.

    DVG_Diffusion.pt --load_dvg--> fit_model   (G_z)                --unet3d-->  UNet3D, variables
                                   fine_model  (g_theta)            --unet3d-->  UNet3D, variables
                                   vqgan, vqgan_bp, vqgan_bp025     --vqgan3d--> VQGAN3D, variables
    A_VQGAN.ckpt --load_checkpoint--> ["state_dict"]                --vqgan3d--> VQGAN3D, variables

``python -m dvg_jax.torch_import`` writes a working folder of them (``command.py``).

Widths follow from the shapes. A key that is unknown, missing or of another shape is reported by name.
"""

from dvg_jax.torch_import.reader import load_checkpoint
from dvg_jax.torch_import.state_dict import DVG_PARTS, load_dvg, subtree
from dvg_jax.torch_import.unet import unet3d
from dvg_jax.torch_import.vqgan import patch_discriminator, vqgan3d

__all__ = ["DVG_PARTS", "load_checkpoint", "load_dvg", "patch_discriminator", "subtree", "unet3d", "vqgan3d"]
