"""The released weights under the conventions that they were trained with: other projector, scales and clipping.

    python -m dvg_jax.torch_import --checkpoint DVG_Diffusion.pt --workdir runs/official
    python evaluate.py --config configs/published.py --workdir runs/official --config.data.source=data/lidc128

What to expect: the released code's networks to 1e-4 (``tests/parity``); its scores on LIDC are not run yet. What is
different from ``configs/paper.py`` is listed in ``docs/architecture.md``. The scale of latents comes with the weights:
VQGANs trained anew with this config standardise theirs per channel as any other.
"""

from ml_collections import ConfigDict

from dvg_jax.config import published_config


def get_config() -> ConfigDict:
    """Biplanar, 128^3, a view at 45 degrees synthesised: the only setting that was released."""
    return published_config()
