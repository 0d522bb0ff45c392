"""Settings of the comparison methods, ``config.baselines``: what their authors used, as far as it is known.

Steps are 100 epochs of the paper's 916 training scans unless a comment says otherwise; the paper gives no optimiser
settings of comparators. A comment names a value's source: the method's own public code, its re-implementation inside
X2CT's code, the publication, or a choice of this project.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

BASELINES = ("cnn2d", "x2ct_cnn", "x2ct_gan", "prior_net", "residual_unet", "bx2s", "reconnet", "cddpm")

TrainingSettings = Callable[[int, int, float], ConfigDict]
"""(steps, batch size, learning rate) -> all the fields of a ``train`` section."""


def baseline_settings(training: TrainingSettings) -> ConfigDict:
    """The section ``baselines`` of a config, one entry a method."""

    def train(steps: int, batch_size: int, rate: float, **fields: object) -> ConfigDict:
        settings = training(steps, batch_size, rate)
        settings.update(fields)
        return settings

    # X2CT's released settings: constant for 50 epochs, falling to 0 over 50.
    x2ct = {"schedule": "linear", "beta1": 0.5, "beta2": 0.99}
    x2ct_network = {"width": 1.0, "layers": (6, 12, 24, 16, 6), "dropout": 0.5}
    return ConfigDict(
        {
            "cnn2d": {
                "width": 1.0,  # of all hidden channel counts
                "fusion": "early",  # early | late: one network a view, mean of the volumes. A choice: none is published
                "blocks": (4, 3, 3, 3, 5),  # residual blocks of the encoder's levels and of the bottom: X2CT's code
                # Weight decay: X2CT's trainer of this network. The rest: X2CT's GAN settings, by inference.
                "train": train(22_900, 4, 2e-4, weight_decay=1e-4, **x2ct),
            },
            # Layers, dropout, batch, rates and loss weights: X2CT's released code. That X2CT-CNN's loss is the squared
            # error alone is remembered from the publication.
            "x2ct_cnn": {**x2ct_network, "train": train(22_900, 4, 2e-4, **x2ct)},
            "x2ct_gan": {
                **x2ct_network,
                "loss": {"adversarial": 0.1, "reconstruction": 10.0, "projection": 10.0},
                "train": train(22_900, 4, 2e-4, **x2ct),
            },
            "prior_net": {
                "width": 1.0,
                "norm": "batch",  # batch, XRaySyn's code | group, for batches of 1: a choice
                # l1 of the volume, a choice | full: the terms that XRaySyn's code names; its 3D loop is unpublished.
                "loss": "l1",
                # XRaySyn's released options, written for its 2D refinement.
                "train": train(11_450, 8, 1e-4, beta1=0.5, beta2=0.9),
            },
            "residual_unet": {
                "width": 1.0,
                # A choice: the publication, as remembered, has SGD 1e-3, a tenth every 20 of 50 epochs, batch 8.
                "train": train(11_450, 8, 2e-4),
            },
            "bx2s": {
                "base": 8,  # channels at full size, a multiple of 4: BX2S-Net's code
                "guided": True,  # full-scale feature attention guidance: BX2S-Net's code
                "loss": "mse",  # mse | l1. A choice: the published loss is of segmentation
                # BX2S-Net's code, 50 epochs; 1e-3 where 1e-2 diverges.
                "train": train(11_450, 4, 1e-2, schedule="staircase"),
            },
            "reconnet": {
                "width": 1.0,
                "start_depth": 2,  # 2: PatRecon's code | 4: a third-party port at 128^3
                "loss": "mse",  # mse | l1: PatRecon's code
                # Moments: PatRecon's code. Rate, batch and epochs: the publication, as remembered.
                "train": train(91_600, 1, 2e-5),
            },
            "cddpm": {
                "space": "pixel",  # pixel | latent: the pipeline's Base-Diffusion. The paper does not say which it ran
                "new_view": False,  # show it DVG-Net's new view too: NewView-Diffusion
                # Of the pixel form, all a choice. The latent form has diffusion.network.
                "network": {
                    "dim": 32,
                    "dim_mults": (1, 2, 4, 8),
                    "heads": 4,
                    "head_dim": 32,
                    "attention_size": 16,  # voxels attend to each other in cubes no larger than this
                    "remat": True,
                },
                # The paper: variants were trained as the full model was.
                "train": train(500_000, 2, 2e-4, ema_decay=0.995, ema_every=10, ema_start=2000),
            },
        }
    )
