"""Set the comparison methods, ``config.baselines``, to the values of their authors, as far as they are known.

Steps are 100 epochs of the paper's 916 training scans unless a comment says otherwise; the paper gives no optimiser
settings of comparators. Networks and losses have the defaults of their classes. A comment names a value's source: the
method's own public code, its re-implementation inside X2CT's code, the publication, or a choice of this project.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from dvg_jax.baselines.base import Regression
from dvg_jax.baselines.bx2s import BX2SNet
from dvg_jax.baselines.cddpm import VolumeUNet
from dvg_jax.baselines.cnn2d import CNN2D
from dvg_jax.baselines.prior_net import PriorNet, PriorTask
from dvg_jax.baselines.reconnet import ReconNet
from dvg_jax.baselines.residual_unet import ResidualUNet
from dvg_jax.baselines.x2ct import GANWeights, Generator
from dvg_jax.networks.refiner import Refiner
from dvg_jax.stages.refine import RefineWeights


def baseline_settings(defaults: Callable[..., dict[str, Any]], train: Callable[..., ConfigDict]) -> ConfigDict:
    """Return the section ``baselines`` of a config, one entry a method.

    ``defaults`` gives the default fields of a class, ``train`` a section from steps, batch size and learning rate.
    """
    # X2CT's released settings: constant for 50 epochs, falling to 0 over 50.
    x2ct = {"schedule": "linear", "beta1": 0.5, "beta2": 0.99}
    return ConfigDict(
        {
            "cnn2d": {
                # width: of all hidden channel counts. fusion: early | late: one network a view, mean of the volumes; a
                # choice: none is published. blocks: residual, of the encoder's levels and of the bottom: X2CT's code.
                **defaults(CNN2D),
                # Weight decay: X2CT's trainer of this network. The rest: X2CT's GAN settings, by inference.
                "train": train(22_900, 4, 2e-4, weight_decay=1e-4, **x2ct),
            },
            # Layers, dropout, batch, rates and loss weights: X2CT's released code. That X2CT-CNN's loss is the squared
            # error alone is remembered from the publication.
            "x2ct_cnn": {**defaults(Generator), "train": train(22_900, 4, 2e-4, **x2ct)},
            "x2ct_gan": {
                **defaults(Generator),
                "loss": defaults(GANWeights),
                "train": train(22_900, 4, 2e-4, **x2ct),
            },
            "prior_net": {
                **defaults(PriorNet),  # norm: batch, XRaySyn's code | group, for batches of 1: a choice
                # l1 of the volume, a choice | full: the terms that XRaySyn's code names; its 3D loop is unpublished.
                "loss": PriorTask.kind,
                # XRaySyn's released options, written for its 2D refinement.
                "train": train(11_450, 8, 1e-4, beta1=0.5, beta2=0.9),
            },
            "residual_unet": {
                **defaults(ResidualUNet),
                # A choice: the publication, as remembered, has SGD 1e-3, a tenth every 20 of 50 epochs, batch 8.
                "train": train(11_450, 8, 2e-4),
            },
            "bx2s": {
                # Channels at full size, a multiple of 4, and full-scale feature attention guidance: BX2S-Net's code.
                **defaults(BX2SNet),
                "loss": Regression.distance,  # mse | l1. A choice: the published loss is of segmentation
                # BX2S-Net's code, 50 epochs; 1e-3 where 1e-2 diverges.
                "train": train(11_450, 4, 1e-2, schedule="staircase"),
            },
            "reconnet": {
                **defaults(ReconNet),  # start_depth 2: PatRecon's code | 4: a third-party port at 128^3
                "loss": Regression.distance,  # mse | l1: PatRecon's code
                # Moments: PatRecon's code. Rate, batch and epochs: the publication, as remembered.
                "train": train(91_600, 1, 2e-5),
            },
            "cddpm": {
                "space": "pixel",  # pixel | latent: the pipeline's Base-Diffusion. The paper does not say which it ran
                "new_view": False,  # show it DVG-Net's new view too: NewView-Diffusion
                # Of the pixel form, all a choice. The latent form has diffusion.network.
                "network": defaults(VolumeUNet, "groups"),
                # The paper: variants were trained as the full model was.
                "train": train(500_000, 2, 2e-4, ema_decay=0.995, ema_every=10, ema_start=2000),
            },
            # This project's refiner without DVG, in two rounds: all a choice.
            "unrolled": {
                "network": defaults(Refiner),
                "rounds": 2,
                "loss": defaults(RefineWeights),
                "train": train(50_000, 2, 1e-3, schedule="cosine", beta2=0.99, clip_norm=1.0),
            },
        }
    )
